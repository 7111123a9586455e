package rpc

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"ctd/rpc/wire"
)

// extensions is the namespace of the ex: types that Apache's XML-RPC sends.
const extensions = "http://ws.apache.org/xmlrpc/namespaces/extensions"

// parseXML reads a methodCall document. What is in it but isn't XML-RPC is an error; comments
// and processing instructions are passed over. There are no entities but XML's own five: a
// document type declaration, which could define more, is refused. Structs and arrays that are items of an
// array are wire.Packed.
func parseXML(doc []byte, contentCharset string, c *claim) (method string, args []any, failed *wire.Error) {
	text, failed := decodeText(doc, contentCharset, c)
	if failed != nil {
		return "", nil, failed
	}
	if failed := checkSizes(text); failed != nil {
		return "", nil, failed
	}
	p := &xmlParser{d: xml.NewDecoder(bytes.NewReader(text)), claim: c}
	defer func() {
		if v := recover(); v != nil {
			stop, ok := v.(xmlStop)
			if !ok {
				panic(v)
			}
			method, args, failed = "", nil, stop.err
		}
	}()
	p.begin("methodCall")
	p.begin("methodName")
	method = strings.TrimSpace(p.text())
	if method == "" {
		p.stop(invalidRequest("methodName is empty"))
	}
	if p.maybe("params") {
		for p.maybe("param") {
			p.begin("value")
			args = append(args, p.value(0))
			p.end()
		}
		p.end()
	}
	p.end()
	if t := p.next(); t != nil {
		p.stop(parseError("%s after the end of methodCall", describeToken(t)))
	}
	return method, args, nil
}

// xmlStop carries an error out of the parser's recursion.
type xmlStop struct{ err *wire.Error }

// xmlParser reads a document by recursive descent. Its methods panic with xmlStop at the first
// error, as encoding/json does inside: each of them would have to pass it on otherwise.
type xmlParser struct {
	d      *xml.Decoder
	ahead  xml.Token // read, but not taken
	values int
	claim  *claim
}

func (p *xmlParser) stop(err *wire.Error) { panic(xmlStop{err}) }

// take takes memory.
func (p *xmlParser) take(n int) {
	if err := p.claim.take(n); err != nil {
		p.stop(err)
	}
}

// maxTag is how many bytes a tag may have. XML-RPC has no attributes; some clients declare namespaces.
const maxTag = 4096

// checkSizes refuses long tags and texts, of which the decoder makes much more memory than they are.
func checkSizes(doc []byte) *wire.Error {
	for {
		at := bytes.IndexByte(doc, '<')
		if max(at, 0) > maxText || at < 0 && len(doc) > maxText {
			return tooLong()
		}
		if at < 0 {
			return nil
		}
		doc = doc[at:]
		end := ""
		switch {
		case bytes.HasPrefix(doc, []byte("<!--")):
			end = "-->"
		case bytes.HasPrefix(doc, []byte("<![CDATA[")):
			end = "]]>"
		case bytes.HasPrefix(doc, []byte("<?")):
			end = "?>"
		}
		if end != "" {
			at = bytes.Index(doc[:min(len(doc), maxText+len(end))], []byte(end))
			switch {
			case at < 0 && len(doc) > maxText:
				return tooLong()
			case at < 0:
				return nil // the decoder says that it doesn't end
			}
			doc = doc[at:]
			continue
		}
		quote := byte(0)
		for at = 1; at < len(doc) && (quote != 0 || doc[at] != '>'); at++ {
			switch c := doc[at]; {
			case c == quote:
				quote = 0
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			}
			if at > maxTag {
				return invalidRequest("a tag is longer than %d bytes", maxTag)
			}
		}
		doc = doc[at:]
	}
}

// next takes the next tag or text that isn't only space; nil at the end of the document.
func (p *xmlParser) next() xml.Token {
	if t := p.ahead; t != nil {
		p.ahead = nil
		return t
	}
	for {
		t := p.raw()
		if text, ok := t.(xml.CharData); ok && len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		return t
	}
}

// raw takes the next tag or text; nil at the end of the document.
func (p *xmlParser) raw() xml.Token {
	for {
		t, err := p.d.Token()
		var syntax *xml.SyntaxError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &syntax):
			p.stop(parseError("line %d: %s", syntax.Line, syntax.Msg))
		case err != nil:
			p.stop(parseError("%s", err.Error()))
		}
		switch t := t.(type) {
		case xml.StartElement, xml.EndElement, xml.CharData:
			return t
		case xml.Directive:
			p.stop(parseError("document type declarations are not accepted"))
		case xml.ProcInst:
			if strings.EqualFold(t.Target, "xml") {
				p.stop(parseError("an XML declaration stands only at the very start"))
			}
		}
	}
}

func describeToken(t xml.Token) string {
	switch t := t.(type) {
	case nil:
		return "the document ends"
	case xml.StartElement:
		return "<" + clipName(t.Name) + ">"
	case xml.EndElement:
		return "</" + clipName(t.Name) + ">"
	}
	return "text"
}

func clipName(n xml.Name) string {
	const longest = 64
	return strings.ToValidUTF8(n.Local[:min(len(n.Local), longest)], "")
}

func (p *xmlParser) unexpected(t xml.Token, want string) {
	err := invalidRequest("%s, want %s", describeToken(t), want)
	if t == nil {
		err.Code = wire.ParseError
	}
	p.stop(err)
}

// begin takes a start tag.
func (p *xmlParser) begin(name string) {
	t := p.next()
	if start, ok := t.(xml.StartElement); !ok || start.Name.Space != "" || start.Name.Local != name {
		p.unexpected(t, "<"+name+">")
	}
}

// maybe takes a start tag if it comes next.
func (p *xmlParser) maybe(name string) bool {
	t := p.next()
	if start, ok := t.(xml.StartElement); ok && start.Name.Space == "" && start.Name.Local == name {
		return true
	}
	p.ahead = t
	return false
}

// end takes an end tag. The decoder has made sure that it is the right one.
func (p *xmlParser) end() {
	t := p.next()
	if _, ok := t.(xml.EndElement); !ok {
		p.unexpected(t, "an end tag")
	}
}

// text takes the text of an element and its end tag.
func (p *xmlParser) text() string {
	var b strings.Builder
	for {
		switch t := p.raw().(type) {
		case xml.CharData:
			p.take(textMemory * len(t))
			b.Write(t)
		case xml.EndElement:
			return b.String()
		default:
			p.unexpected(t, "text")
		}
	}
}

// value takes what is inside <value>, and its end tag.
func (p *xmlParser) value(depth int) any {
	if p.values++; p.values > maxValues {
		p.stop(tooMany("values", maxValues))
	}
	p.take(valueMemory)
	var text strings.Builder
	for {
		switch t := p.raw().(type) {
		case xml.CharData:
			p.take(textMemory * len(t))
			text.Write(t)
		case xml.EndElement:
			return text.String() // a value without a type is a string
		case xml.StartElement:
			if strings.TrimSpace(text.String()) != "" {
				p.unexpected(t, "</value> after text")
			}
			v := p.typed(t.Name, depth)
			p.end()
			return v
		default:
			p.unexpected(t, "a value")
		}
	}
}

// typed takes a value's element, whose start tag is taken, and its end tag.
func (p *xmlParser) typed(name xml.Name, depth int) any {
	if name.Space == "ex" || name.Space == extensions {
		switch name.Local {
		case "i1", "i2", "i8", "float", "nil", "dateTime":
			return p.scalar(name.Local)
		}
		p.stop(invalidRequest("unknown type <ex:%s>", clipName(name)))
	}
	if name.Space != "" {
		p.stop(invalidRequest("<%s> is of another namespace", clipName(name)))
	}
	switch name.Local {
	case "struct", "array":
		if depth == maxDepth {
			p.stop(tooDeep())
		}
		if name.Local == "struct" {
			return p.members(depth + 1)
		}
		return p.items(depth + 1)
	case "i4", "int", "i8", "boolean", "string", "double", "dateTime.iso8601", "base64", "nil":
		return p.scalar(name.Local)
	}
	err := invalidRequest("unknown type <%s>", clipName(name))
	if near := wire.Nearest(name.Local, []string{"int", "i4", "i8", "boolean", "string", "double", "dateTime.iso8601", "base64", "struct", "array", "nil"}); near != "" {
		err.Hint = "did you mean <" + near + ">?"
	}
	p.stop(err)
	return nil
}

func (p *xmlParser) scalar(typ string) any {
	v, ok := parseScalar(typ, p.text())
	if !ok {
		p.stop(invalidRequest("not a value of <%s>", typ))
	}
	return v
}

func (p *xmlParser) members(depth int) any {
	p.take(objectMemory)
	members := make(map[string]any)
	for p.maybe("member") {
		p.take(memberMemory)
		p.begin("name")
		name := p.text()
		if _, twice := members[name]; twice {
			p.stop(invalidRequest("member %s is given twice", quoted(name)))
		}
		p.begin("value")
		members[name] = p.value(depth)
		p.end()
	}
	p.end()
	return members
}

func (p *xmlParser) items(depth int) any {
	items := []any{}
	p.begin("data")
	for p.maybe("value") {
		before := p.claim.mark()
		item, err := p.claim.item(p.value(depth), before)
		if err != nil {
			p.stop(err)
		}
		items = append(items, item)
	}
	p.end()
	p.end()
	return items
}
