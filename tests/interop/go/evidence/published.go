package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// tileHeight is C2SP's: 256 hashes a tile.
const tileHeight = 8

// published is a log as its CA serves it.
type published struct {
	url    string
	client *http.Client
}

func newClient(cert, key, bundle string) (*http.Client, error) {
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(bundle)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	config := &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots}
	transport := &http.Transport{TLSClientConfig: config}
	return &http.Client{Timeout: 100 * time.Second, Transport: transport}, nil
}

func (log *published) get(path string) ([]byte, error) {
	answer, err := log.client.Get(log.url + "/log/" + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// checkpoint opens the note with the log's key, and reads its three lines.
func (log *published) checkpoint(origin, vkey string) (tlog.Tree, error) {
	var tree tlog.Tree
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tree, err
	}
	message, err := log.get("checkpoint")
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	// tlog.ParseTree knows only the first line of Go's own log.
	lines, found := strings.CutPrefix(opened.Text, origin+"\n")
	if !found {
		return tree, errors.New("another origin")
	}
	return tlog.ParseTree([]byte("go.sum database tree\n" + lines))
}

// Height is tlog.TileReader's.
func (log *published) Height() int { return tileHeight }

// ReadTiles is tlog.TileReader's.
func (log *published) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		var err error
		if data[i], err = log.get(path(tile)); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// SaveTiles is tlog.TileReader's: nothing is kept.
func (log *published) SaveTiles([]tlog.Tile, [][]byte) {}

// path leaves out the height, as C2SP tlog-tiles does, and names bundles "entries".
func path(tile tlog.Tile) string {
	inGo := fmt.Sprintf("tile/%d/", tileHeight)
	path := strings.Replace(tile.Path(), inGo, "tile/", 1)
	return strings.Replace(path, "tile/data/", "tile/entries/", 1)
}

// entries reads every bundle of a tree of this size.
func (log *published) entries(size int64) ([][]byte, error) {
	var entries [][]byte
	for first := int64(0); first < size; first += 1 << tileHeight {
		width := min(size-first, 1<<tileHeight)
		bundle := tlog.Tile{H: tileHeight, L: -1, N: first >> tileHeight, W: int(width)}
		data, err := log.get(path(bundle))
		if err != nil {
			return nil, err
		}
		for len(data) >= 2 {
			length := int(binary.BigEndian.Uint16(data))
			if len(data) < 2+length || length == 0 {
				return nil, fmt.Errorf("%s: an entry is cut off or empty", path(bundle))
			}
			entries = append(entries, data[2:2+length])
			data = data[2+length:]
		}
	}
	if int64(len(entries)) != size {
		return nil, fmt.Errorf("%d entries in a tree of %d", len(entries), size)
	}
	return entries, nil
}
