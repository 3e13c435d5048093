// Command peer speaks mTLS with nothing but Go's standard library.
//
// With --listen it serves until it is killed: its first line is its port, and it answers with the
// SPIFFE ID of whoever asks. With --connect it asks a URL once and prints the answer.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	listen := flag.String("listen", "", "serve here, HOST:PORT")
	connect := flag.String("connect", "", "ask this URL")
	cert := flag.String("cert", "", "own chain, PEM")
	key := flag.String("key", "", "own key, PEM")
	bundle := flag.String("bundle", "", "whom to trust, PEM")
	flag.Parse()

	config, err := configure(*cert, *key, *bundle)
	if err == nil && *listen != "" {
		err = serve(*listen, config)
	} else if err == nil {
		err = ask(*connect, config)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// configure trusts the bundle alone, in both directions.
func configure(cert, key, bundle string) (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(bundle)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("no certificate in " + bundle)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own},
		RootCAs:      roots,
		ClientCAs:    roots,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}, nil
}

func serve(address string, config *tls.Config) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{
		TLSConfig: config,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, r.TLS.PeerCertificates[0].URIs[0])
		}),
	}
	return server.ServeTLS(listener, "", "")
}

func ask(url string, config *tls.Config) error {
	client := &http.Client{
		Timeout:   100 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config},
	}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
