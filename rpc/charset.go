package rpc

import (
	"bytes"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html/charset"

	"ctd/rpc/wire"
)

// xmlDeclaration is XMLDecl of XML 1.0 section 2.8, read as ASCII.
var xmlDeclaration = regexp.MustCompile(`^<\?xml[ \t\r\n]+version[ \t\r\n]*=[ \t\r\n]*(?:"1\.[0-9]+"|'1\.[0-9]+')` +
	`(?:[ \t\r\n]+encoding[ \t\r\n]*=[ \t\r\n]*(?:"([A-Za-z][A-Za-z0-9._-]*)"|'([A-Za-z][A-Za-z0-9._-]*)'))?` +
	`(?:[ \t\r\n]+standalone[ \t\r\n]*=[ \t\r\n]*(?:"(?:yes|no)"|'(?:yes|no)'))?[ \t\r\n]*\?>`)

// decodeText returns an XML document as UTF-8 without its byte order mark and declaration. The
// encoding is UTF-8 where a byte order mark says so, else the declaration's, else that of the
// content type's charset, else UTF-8.
func decodeText(doc []byte, contentCharset string, c *claim) ([]byte, *wire.Error) {
	doc, marked := bytes.CutPrefix(doc, []byte("\xEF\xBB\xBF"))
	if bytes.HasPrefix(doc, []byte("\xFE\xFF")) || bytes.HasPrefix(doc, []byte("\xFF\xFE")) {
		return nil, unknownEncoding("UTF-16")
	}
	encoding := contentCharset
	if bytes.HasPrefix(doc, []byte("<?xml")) {
		m := xmlDeclaration.FindSubmatch(doc)
		if m == nil {
			return nil, parseError("the XML declaration is malformed")
		}
		if declared := string(m[1]) + string(m[2]); declared != "" {
			encoding = declared
		}
		doc = doc[len(m[0]):]
	}
	if marked || encoding == "" {
		encoding = "utf-8"
	}
	return toUTF8(doc, encoding, c)
}

// maxUTF8 is how many bytes of UTF-8 a byte of another encoding becomes at most.
const maxUTF8 = 3

func toUTF8(doc []byte, encoding string, c *claim) ([]byte, *wire.Error) {
	switch name := strings.ToLower(encoding); name {
	case "utf-8", "utf8":
		if !utf8.Valid(doc) {
			return nil, invalidCharacter(encoding)
		}
		return doc, nil
	case "us-ascii", "ascii":
		for _, c := range doc {
			if c >= utf8.RuneSelf {
				return nil, invalidCharacter(encoding)
			}
		}
		return doc, nil
	case "iso-8859-1", "iso8859-1", "latin1", "latin-1":
		// Not by the package below, which takes it for windows-1252 as browsers do.
		size := len(doc)
		for _, c := range doc {
			size += int(c >> 7) // two bytes each
		}
		if err := c.take(size); err != nil {
			return nil, err
		}
		out := make([]byte, 0, size)
		for _, c := range doc {
			out = utf8.AppendRune(out, rune(c))
		}
		return out, nil
	}
	enc, name := charset.Lookup(encoding)
	if enc == nil || strings.HasPrefix(name, "utf-16") || name == "replacement" || name == "x-user-defined" {
		return nil, unknownEncoding(encoding)
	}
	if err := c.take(maxUTF8 * len(doc)); err != nil {
		return nil, err
	}
	out, err := enc.NewDecoder().Bytes(doc)
	// The decoders replace what they can't read.
	if err != nil || bytes.ContainsRune(out, utf8.RuneError) {
		return nil, invalidCharacter(encoding)
	}
	return out, nil
}

func unknownEncoding(name string) *wire.Error {
	return &wire.Error{Code: wire.UnsupportedEncoding, Message: "encoding " + quoted(name) + " is not known", Hint: "send UTF-8"}
}

func invalidCharacter(encoding string) *wire.Error {
	return &wire.Error{Code: wire.InvalidCharacter, Message: "the document has bytes that are no character of " + encoding, Hint: "declare the encoding that it has, or send UTF-8"}
}
