package main

import "embed"

// initFiles is what `fingerpost init DIR` writes: a folder that works as it
// stands. The files lie in initdir/, with github/ in place of .github/, since an
// embedded folder leaves out names that begin with a dot.
//
//go:embed initdir
var initFiles embed.FS
