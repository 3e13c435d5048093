// Command evidence checks a certificate and its log with the libraries of others: the
// countersignature with Google's certificate-transparency-go, checkpoint, tiles and inclusion with
// Go's own sumdb packages. Nothing of Countersign is linked here.
package main

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	url := flag.String("url", "", "the CA")
	cert := flag.String("cert", "", "who asks for the log, PEM")
	key := flag.String("key", "", "its key, PEM")
	bundle := flag.String("bundle", "", "the CA's anchors, PEM")
	trust := flag.String("trust", "", "what `countersign trust show --json` says")
	certificate := flag.String("certificate", "", "leaf and issuer to check, PEM")
	flag.Parse()

	client, err := newClient(*cert, *key, *bundle)
	if err == nil {
		err = check(&published{*url, client}, *trust, *certificate)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// trustState is what this program needs of the signed trust state.
type trustState struct {
	CountersignatureKeys []struct {
		Key []byte `json:"key"` // SubjectPublicKeyInfo
	} `json:"countersignature_keys"`
	Log struct {
		Origin string `json:"origin"`
		Key    string `json:"key"` // C2SP vkey
	} `json:"log"`
}

func check(published *published, trustFile, certificateFile string) error {
	trust, err := readTrust(trustFile)
	if err != nil {
		return err
	}
	chain, err := readChain(certificateFile)
	if err != nil {
		return err
	}
	countersignature, err := x509.ParsePKIXPublicKey(trust.CountersignatureKeys[0].Key)
	if err != nil {
		return err
	}
	leaf, index, err := verifiedLeaf(chain, countersignature)
	if err != nil {
		return fmt.Errorf("countersignature: %w", err)
	}
	fmt.Printf("countersignature: ok, index %d\n", index)

	tree, err := published.checkpoint(trust.Log.Origin, trust.Log.Key)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	fmt.Printf("checkpoint: ok, %d entries\n", tree.N)
	if err := checkInclusion(published, tree, leaf, index); err != nil {
		return fmt.Errorf("inclusion: %w", err)
	}
	fmt.Println("inclusion: ok")
	if err := checkEntries(published, tree, leaf, index); err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	fmt.Println("entries: ok")
	return nil
}

func readTrust(file string) (*trustState, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var trust trustState
	if err := json.Unmarshal(text, &trust); err != nil {
		return nil, err
	}
	if len(trust.CountersignatureKeys) != 1 {
		return nil, errors.New("one countersignature key was expected")
	}
	return &trust, nil
}

// checkInclusion proves the leaf from tiles alone; the reader checks each of them against the root.
func checkInclusion(published *published, tree tlog.Tree, leaf []byte, index int64) error {
	reader := tlog.TileHashReader(tree, published)
	proof, err := tlog.ProveRecord(tree.N, index, reader)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(leaf))
}

// checkEntries hashes every entry to the root, and finds the leaf at its index.
func checkEntries(published *published, tree tlog.Tree, leaf []byte, index int64) error {
	entries, err := published.entries(tree.N)
	if err != nil {
		return err
	}
	if !bytes.Equal(entries[index], leaf) {
		return errors.New("the entry at the leaf's index is another one")
	}
	var hashes storedHashes
	for i, entry := range entries {
		if entry[0] != '{' && binary.BigEndian.Uint16(entry) != 0 {
			return fmt.Errorf("entry %d is neither an event nor a leaf", i)
		}
		more, err := tlog.StoredHashes(int64(i), entry, hashes)
		if err != nil {
			return err
		}
		hashes = append(hashes, more...)
	}
	root, err := tlog.TreeHash(tree.N, hashes)
	if err == nil && root != tree.Hash {
		err = errors.New("they hash to another root")
	}
	return err
}

// storedHashes is a whole tree in memory, in the order of tlog.StoredHashIndex.
type storedHashes []tlog.Hash

func (stored storedHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = stored[index]
	}
	return hashes, nil
}
