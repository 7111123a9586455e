package cli

import (
	"testing"

	"github.com/alecthomas/kong"
)

// HelpTexts returns the help text of every verb by its path; one without is "".
func HelpTexts() map[string]string {
	parser, err := newParser(&grammar{}, &session{o: Options{}.withDefaults()})
	if err != nil {
		panic(err)
	}
	texts := map[string]string{}
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		if n.Type == kong.ApplicationNode {
			texts["ctd"] = n.Help
		} else {
			texts["ctd "+n.Path()] = n.Detail
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
	return texts
}

// Complete returns what completion offers for words.
func Complete(t *testing.T, commands []Command, words ...string) []string {
	t.Helper()
	parser, err := newParser(&grammar{}, &session{o: Options{Commands: commands}.withDefaults()})
	if err != nil {
		t.Fatal(err)
	}
	return complete(parser.Model, words)
}
