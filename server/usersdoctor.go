package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"ctd/auth"
	"ctd/rpc/wire"
)

// checkUsers looks whether the files that say who may call count as they are. Where one doesn't, a right
// that was taken out of it may still be there.
func (s *Server) checkUsers(ctx context.Context) wire.Finding {
	f := wire.Finding{Check: "users", Severity: severityOK}
	a := s.policyOf(ctx).auth
	files := a.Files()
	if len(files) == 0 {
		f.Message = "there are no files of users, tokens and passwords: who may call is in the configuration"
		return f
	}
	f.Message = "who may call is as these say, where they are there: " + strings.Join(files, ", ")
	var texts, mends []string
	for _, t := range a.Trouble() {
		text := fmt.Sprintf("%v (since %s); ", t.Err, t.Since.UTC().Format(time.RFC3339))
		if t.Kept {
			text += "what was read of it before stays in force, and nothing taken out of it since ends"
		} else {
			text += "nobody of it is let in"
		}
		texts = append(texts, text)
		var file *auth.FileError
		if errors.As(t.Err, &file) {
			mends = append(mends, fileMend(file))
		}
	}
	if len(texts) > 0 {
		f.Severity, f.Message, f.Mend = severityError, strings.Join(texts, "; "), strings.Join(mends, " && ")
	}
	return f
}

// fileMend is the command that mends a file of users, tokens or passwords, or that shows what is wrong.
func fileMend(e *auth.FileError) string {
	path := shellWord(e.Path)
	switch {
	case errors.Is(e.Err, auth.ErrWritable):
		return fmt.Sprintf("chown %d %s && chmod 0600 %s", stateOwner(e.Path), path, path)
	case errors.Is(e.Err, fs.ErrPermission):
		if _, err := os.Stat(e.Path); err != nil { // a folder above it is closed
			return "namei -l " + path
		}
		return fmt.Sprintf("chown %d %s && chmod u+r %s", os.Geteuid(), path, path)
	case errors.Is(e.Err, fs.ErrNotExist):
		return "ls -la " + shellWord(filepath.Dir(e.Path))
	case e.Line > 0:
		return fmt.Sprintf("${EDITOR:-vi} +%d %s", e.Line, path)
	}
	if fi, err := os.Stat(e.Path); err == nil && fi.Mode().IsRegular() {
		return "${EDITOR:-vi} " + path
	}
	return "ls -ld " + path
}

// plainWord is what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// shellWord writes a text as one word of a shell's.
func shellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// stateOwner returns whose a file of the state folder is to be: the folder's owner, as whom the daemon runs.
func stateOwner(path string) uint32 {
	if fi, err := os.Stat(filepath.Dir(path)); err == nil {
		if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
			return sys.Uid
		}
	}
	return uint32(os.Geteuid())
}
