package main

import (
	"crypto"
	"encoding/pem"
	"errors"
	"os"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/ctutil"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
)

// readChain returns the leaf and its issuer.
func readChain(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, certificate)
	}
	if len(chain) < 2 {
		return nil, errors.New("leaf and issuer were expected")
	}
	return chain, nil
}

// verifiedLeaf checks the embedded SCT over the rebuilt precertificate entry, and returns that
// entry as the log has it, with its index.
func verifiedLeaf(chain []*x509.Certificate, log crypto.PublicKey) ([]byte, int64, error) {
	scts, err := x509util.ParseSCTsFromSCTList(&chain[0].SCTList)
	if err != nil {
		return nil, 0, err
	}
	if len(scts) != 1 {
		return nil, 0, errors.New("one SCT was expected")
	}
	if err := ctutil.VerifySCT(log, chain, scts[0], true); err != nil {
		return nil, 0, err
	}
	leaf, err := ct.MerkleTreeLeafForEmbeddedSCT(chain, scts[0].Timestamp)
	if err != nil {
		return nil, 0, err
	}
	leaf.TimestampedEntry.Extensions = scts[0].Extensions
	encoded, err := tls.Marshal(*leaf)
	if err != nil {
		return nil, 0, err
	}
	index, err := leafIndex(scts[0].Extensions)
	return encoded, index, err
}

// leafIndex reads the one extension that C2SP static-ct-api defines: type 0, five bytes.
func leafIndex(extensions []byte) (int64, error) {
	if len(extensions) != 8 || [3]byte(extensions) != [3]byte{0, 0, 5} {
		return 0, errors.New("the SCT has other extensions than leaf_index")
	}
	var index int64
	for _, digit := range extensions[3:] {
		index = index<<8 | int64(digit)
	}
	return index, nil
}
