package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// skipMark passes over the byte order mark that some editors write, and refuses what is no text in
// UTF-8. name is the file's, for messages.
func skipMark(in *bufio.Reader, name string) error {
	if name == "-" {
		name = "standard input"
	}
	head, _ := in.Peek(4) // an error comes again
	what, hint := "", ""
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		_, _ = in.Discard(3)
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		what, hint = "compressed by gzip", "unpack it before: zcat FILE | ctd import"
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		what, hint = "compressed by zstd", "unpack it before: zstdcat FILE | ctd import"
	case bytes.HasPrefix(head, []byte("\xfd7zX")):
		what, hint = "compressed by xz", "unpack it before: xzcat FILE | ctd import"
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")), bytes.IndexByte(head, 0) >= 0:
		what, hint = "no text in UTF-8, but maybe in UTF-16", "convert it before: iconv -f UTF-16 -t UTF-8 FILE | ctd import"
	}
	if what == "" {
		return nil
	}
	return &usageError{message: fmt.Sprintf("import: %s is %s; nothing was done", name, what), hint: hint}
}

// oneObject reads a line that holds one JSON object, as strictly as the daemon does.
func oneObject(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("the text is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var tree map[string]any
	if err := d.Decode(&tree); err != nil || tree == nil {
		return nil, errors.New("no JSON object, or not a whole one")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	if name, twice := givenTwice(json.NewDecoder(bytes.NewReader(text))); twice {
		return nil, fmt.Errorf("member %q is given twice", name)
	}
	return tree, nil
}

// givenTwice returns the first name that an object of the value that comes next has twice.
func givenTwice(d *json.Decoder) (name string, twice bool) {
	token, err := d.Token()
	open, composed := token.(json.Delim)
	if err != nil || !composed {
		return "", false
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			token, _ := d.Token()
			name, _ := token.(string)
			if seen[name] {
				return name, true
			}
			seen[name] = true
		}
		if name, twice := givenTwice(d); twice {
			return name, true
		}
	}
	_, _ = d.Token() // what closes it
	return "", false
}

// plainNames tells whether the objects of a text have no member twice, and none whose name or value
// encoding/json takes for another than it is: it doesn't mind case, nor bytes that are no UTF-8. It
// may say no where there is nothing wrong.
func plainNames(text []byte) bool {
	var names [64][]byte // of the objects that are open
	var starts [8]int    // where each one's begin
	n, depth := 0, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '{':
			if depth == len(starts) {
				return false
			}
			starts[depth], depth = n, depth+1
		case c == '}':
			if depth == 0 {
				return false
			}
			depth--
			n = starts[depth]
		case c == '"':
			size := bytes.IndexByte(text[i+1:], '"')
			if size < 0 {
				return false
			}
			s := text[i+1 : i+1+size]
			i += size + 1
			if !plainText(s) {
				return false
			}
			if after := bytes.TrimLeft(text[i+1:], " \t\r\n"); len(after) == 0 || after[0] != ':' {
				continue // a value
			}
			if depth == 0 || n == len(names) || !plainName(s) || hasName(names[starts[depth-1]:n], s) {
				return false
			}
			names[n] = s
			n++
		}
	}
	return true
}

// plainText tells whether a string is of ASCII without escapes.
func plainText(s []byte) bool {
	for _, c := range s {
		if c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// plainName tells whether a name has no capital letter.
func plainName(s []byte) bool {
	for _, c := range s {
		if 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

func hasName(names [][]byte, s []byte) bool {
	for _, name := range names {
		if bytes.Equal(name, s) {
			return true
		}
	}
	return false
}
