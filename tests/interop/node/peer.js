// Speaks mTLS with nothing but Node's standard library.
//
// With --listen it serves until it is killed: its first line is its port, and it answers with the
// SPIFFE ID of whoever asks. With --connect it asks a URL once and prints the answer.
'use strict';

const fs = require('node:fs');
const https = require('node:https');
const { parseArgs } = require('node:util');

function main() {
  const text = { type: 'string' };
  const { values } = parseArgs({
    options: { listen: text, connect: text, cert: text, key: text, bundle: text },
  });
  const tls = {
    cert: fs.readFileSync(values.cert),
    key: fs.readFileSync(values.key),
    ca: fs.readFileSync(values.bundle),
  };
  if (values.listen) serve(values.listen, tls);
  else ask(values.connect, tls);
}

function serve(address, tls) {
  const server = https.createServer(
    { ...tls, requestCert: true, rejectUnauthorized: true },
    (request, response) => response.end(spiffeId(request.socket.getPeerX509Certificate())),
  );
  const [host, port] = address.split(':');
  server.listen(Number(port), host, () => console.log(server.address().port));
}

// "URI:spiffe://…, DNS:…"
function spiffeId(certificate) {
  const names = certificate.subjectAltName.split(', ');
  return names.find((name) => name.startsWith('URI:')).slice('URI:'.length);
}

function ask(url, tls) {
  const request = https.get(url, { ...tls, timeout: 100_000 }, (answer) => {
    if (answer.statusCode !== 200) throw new Error(`HTTP ${answer.statusCode}`);
    answer.pipe(process.stdout);
  });
  request.on('timeout', () => request.destroy(new Error('no answer in 100 s')));
}

main();
