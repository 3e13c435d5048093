-- Every table of a Countersign store. Times are milliseconds since 1970 unless they are a
-- certificate's, which are seconds. Rows that grant authority name the event that made them.

-- One row: which form this is, and whose.
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  version INTEGER NOT NULL,
  trust_domain TEXT NOT NULL
);

-- One row a log: its head, locked by every writer. `chain` runs over the entries that fold; `seal`
-- over all of the row, by a key that is not in the database.
CREATE TABLE head (
  log_id INTEGER PRIMARY KEY,
  size INTEGER NOT NULL,
  edge BLOB NOT NULL,
  at INTEGER NOT NULL,
  revocation_epoch INTEGER NOT NULL,
  policy_hash BLOB NOT NULL,
  swept INTEGER NOT NULL,
  chain BLOB NOT NULL,
  seal BLOB NOT NULL
);

-- The log's entries. `place` is log_id * 2^40 + the entry's index (an SCT names it by 40 bits): one
-- integer key, so one tree of pages to write. Those that the fold of the revocation state reads are
-- marked.
CREATE TABLE entries (
  place INTEGER PRIMARY KEY,
  folds INTEGER NOT NULL,
  bytes BLOB NOT NULL
);
CREATE INDEX folding_entries ON entries (place) WHERE folds = 1;

-- Full hash tiles; partial ones are computed.
CREATE TABLE tiles (
  log_id INTEGER NOT NULL,
  level INTEGER NOT NULL,
  tile_index INTEGER NOT NULL,
  hashes BLOB NOT NULL,
  PRIMARY KEY (log_id, level, tile_index)
);

-- The newest signed checkpoint of each log.
CREATE TABLE checkpoints (
  log_id INTEGER PRIMARY KEY,
  size INTEGER NOT NULL,
  note BLOB NOT NULL
);

CREATE TABLE identities (
  id INTEGER PRIMARY KEY,
  spiffe_id TEXT NOT NULL UNIQUE
);

-- What is known of each certificate before it is signed; its key is its place in the log. `seal`
-- covers the row, with the identity's name.
CREATE TABLE records (
  leaf_index INTEGER PRIMARY KEY,
  serial_number BLOB NOT NULL UNIQUE,
  identity INTEGER NOT NULL REFERENCES identities,
  issued_at INTEGER NOT NULL,
  issuer_key_hash BLOB NOT NULL,
  profile TEXT NOT NULL,
  not_before INTEGER NOT NULL,
  not_after INTEGER NOT NULL,
  request_hash BLOB NOT NULL,
  facts TEXT NOT NULL,
  seal BLOB NOT NULL
);
CREATE INDEX records_by_identity ON records (identity);

-- Signed certificates. The first that is stored for a leaf stays; only stored bytes leave.
CREATE TABLE certificates (
  leaf_index INTEGER PRIMARY KEY REFERENCES records,
  der BLOB NOT NULL
);

-- Requests by the caller's own name for them, and what they are answered by: the leaf or event that
-- came of each (-1 where nothing had to change), and what cannot be read there. `seal` covers the
-- row.
CREATE TABLE idempotency (
  principal TEXT NOT NULL,
  name TEXT NOT NULL,
  request_hash BLOB NOT NULL,
  leaf_index INTEGER NOT NULL,
  at INTEGER NOT NULL,
  answer TEXT NOT NULL DEFAULT '',
  seal BLOB NOT NULL DEFAULT x'',
  PRIMARY KEY (principal, name)
) WITHOUT ROWID;
CREATE INDEX idempotency_by_time ON idempotency (at);
CREATE INDEX idempotency_unchanged ON idempotency (principal, at) WHERE leaf_index < 0;

-- Bootstrap tokens; of the secret only the hash. `seal` covers what is fixed when one is made.
CREATE TABLE tokens (
  hash BLOB PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  spiffe_id TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  key_hash BLOB,
  log_index INTEGER NOT NULL,
  used_by BLOB,
  used_leaf INTEGER,
  revoked_index INTEGER,
  seal BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX tokens_by_log_index ON tokens (log_index);

CREATE TABLE operators (
  name TEXT PRIMARY KEY,
  log_index INTEGER NOT NULL
) WITHOUT ROWID;

-- The index of the log's revoking events; loading compares the two.
CREATE TABLE revocations (
  log_index INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,
  target TEXT NOT NULL,
  reason TEXT NOT NULL,
  at INTEGER NOT NULL
);

CREATE TABLE policies (
  hash BLOB PRIMARY KEY,
  files TEXT NOT NULL,
  log_index INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE trust_states (
  sequence INTEGER PRIMARY KEY,
  note BLOB NOT NULL,
  log_index INTEGER NOT NULL
);

CREATE TABLE issuers (
  key_hash BLOB PRIMARY KEY,
  certificate BLOB NOT NULL,
  log_index INTEGER NOT NULL
) WITHOUT ROWID;

-- Numbers are taken before a CRL is signed, so that none is used twice.
CREATE TABLE crl_numbers (
  issuer_key_hash BLOB PRIMARY KEY,
  number INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE crls (
  issuer_key_hash BLOB PRIMARY KEY,
  number INTEGER NOT NULL,
  der BLOB NOT NULL,
  revocation_epoch INTEGER NOT NULL,
  next_update INTEGER NOT NULL
) WITHOUT ROWID;
