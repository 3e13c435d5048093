//! The CA engine: attestation, policy, sequencing, issuers, store, revocation, rotation.
//!
//! # Who owns what
//!
//! An [`Authority`] is its rooms, and keeps nothing itself. Each room takes what it needs of two others: what this
//! node has read of the log, and the way to write to it. Rooms know nothing of each other but by the log; only
//! what workloads report is heard by the feed and counted by a rotation, too (`fleet::Instances`).
//!
//! | | owns | of it, read first |
//! |---|---|---|
//! | [`View`] (`view`) | what was read: the fold, policy and keys in force, the log of the last days, who is told of changes, whether the CA has halted | `view::following`, `view::permits` |
//! | [`Writer`] (`writer`) | the queue before the commits, the checkpoints that this node signs, tasks that go on to their end | `writer` |
//! | [`Issuing`] (`issuing`) | budgets, refusals, whose turn a leaf or a line of renewals is | `issuing`, then `issuing::completing` |
//! | [`Operations`] (`operations`) | turns of acts, what was found lost, what was listed | `operations::revocations` |
//! | [`rotation::Rotation`], [`Crls`], [`Fleet`], [`Feed`] | the lists in memory, what was reported, who listens | each one's first file |
//!
//! Below them: `fold` (what the log's events come to, pure), `sequencer` (what one transaction writes, pure),
//! `certificate` (the steps as types), `store`, `signer`. No circle is among these folders: a test of the
//! repository sees to it.
//!
//! # How a certificate is made
//!
//! [`Issuing::issue`] reads from top to bottom: parse and prove possession, attest, ask Cedar,
//! apply the profile and lint, log event, leaf and record in one commit, countersign what stands
//! in the log, sign, compare with what was logged, store, answer with stored bytes. Each step
//! returns a type that only that step can make (`certificate`).
//!
//! From the first commit on a task of the engine goes on, whatever becomes of the connection
//! (`tasks`).
//!
//! Crash before the first commit: nothing happened. After it: a leaf whose certificate nobody
//! holds; the same request within a minute completes it, then it is `issue.abandoned`. Of a certificate
//! that was stored since, and is not what stands there, no second one is signed (`accounting`). After the
//! second commit, before the answer: the same request again returns the stored bytes. Each commit is
//! followed by its head in a file beside the database (`kept_head`), before anybody hears of it by
//! whatever way; killed between the two, an older head stands there, to which the log leads. Where it
//! cannot be written nothing more is committed, and of the last commit nobody is told until it is, but
//! what it only restricts.
//!
//! # Where things are kept
//!
//! | store | here | what keeps it |
//! |---|---|---|
//! | records, log | SQLite (WAL, `synchronous=FULL`), one process | mode 0600, a lock, the head's seal (`seal`) at every read and commit, the newest heads in memory (`store::heads`), the newest head and checkpoint in files beside it (`kept_head`, `kept`), the fold of the log against chain and tables at every start |
//! | issuer, countersignature, log, feed keys; the key of the head's seal | `keys/`, sealed PKCS#8 | passphrase of `serve` |
//! | key of the CA's own certificate, so that a restart without the issuer's key can be reached | `keys/own-certificate.sealed`, sealed PKCS#8 | passphrase of `serve` |
//! | root, trust keys | `offline/`, sealed PKCS#8 | a passphrase of its own; `init` and `rotate` open it, `serve` never |
//!
//! # What a thief gains
//!
//! | who has | gains |
//! |---|---|
//! | the issuer's key alone | nothing that a verifier of ours takes: it lacks the countersignature |
//! | code execution in the CA's process | mints unseen: both keys are in it (a separate countersigner is not built yet) |
//! | write access to the database, no key | puts back an older state that the CA itself had written, which halts a running CA at its next look, and another at its start; of single rows, takes the rows of certificates away, which are then not renewed, and that is noticed (`lost_rows`: the log says the rest of them); hides rows from lists (of tokens, and what a deposed operator did) and from the names that operators and the CA itself had before; and replaces a stored certificate, which then fits no countersignature. What a renewal is judged by is sealed in its record; whose certificates live, and which CRL is the newest, is read from the log (`recent_log`); the schema is compared with ours, so that nothing in the database undoes what is written. That a token was used is known from the log (`known_tokens`), as is what each certificate was renewed by, and which were shown (`renewals`); that a line of renewals broke is known from the log's fold, what became of a leaf (`accounting`) from this process, or from a certificate that is proved to be the leaf's. Rows by which a CA of before decided renewals count once, when its database is brought up to date, and only to refuse one (`store::sqlite`, `renewals`). No certificate of its own making: what is read back is signed only if policy and linter have just prepared the same. No event that grants or revokes is added, changed or hidden: the head's seal covers a chain over all of them, a token's row has its own, so has a certificate's record, and so has a request's that its caller named: nobody is told that something was done |
//! | the feed's key | revokes and denies without right, and lifts denials, for whoever it reaches over TLS as the CA; makes no revoked certificate good again |
//! | an operator's certificate, no offline key | takes the steps of a rotation that are due, and begins others; trusts nothing new, and certifies no issuer |
//! | log keys and database | cannot mint; rewrites history, and checkpoints held elsewhere convict |
//! | all keys | all; only checkpoints held elsewhere convict |
//!
//! # Not in scope
//!
//! HTTP, TLS and configuration (`server`); PostgreSQL, key services, a separate countersigner:
//! they come with the capabilities that need them.

mod announced;
mod attest;
mod authority;
mod beside;
mod budgets;
mod caller;
mod certificate;
mod chain;
mod checkpoint;
pub mod clock;
mod crls;
mod error;
mod event;
mod evidence;
mod explanation;
mod facts;
mod feed;
pub mod files;
mod fleet;
mod fold;
pub mod folder;

mod issuing;

mod keys;
mod limits;
mod one_at_a_time;
mod operations;
mod own_names;
mod parent_chain;
mod permitted_names;
pub mod policy;
mod present;
mod proven;
pub mod rotation;
mod seal;
pub mod sequencer;
pub mod setup;
pub mod shell;
pub mod signer;
pub mod store;
mod subtrees;
mod tasks;
mod token_kind;
mod view;
mod writer;

pub use authority::{Authority, Parts};
pub use beside::kept_file::KeptBeside;
pub use budgets::BudgetLimits;
pub use caller::Caller;
pub use crls::{CRL_LIMIT, Crls};
pub use error::{Denied, Error};
pub use event::{Act, Event, EventDraft};
pub use evidence::halt::HALTED_NEXT_STEP;
pub use feed::{Feed, SUBSCRIBED_CERTIFICATES, SUBSCRIPTIONS, Start, Subscription, TooSlow};
pub use fleet::Fleet;
pub use issuing::Issuing;
pub use keys::Keys;
pub use limits::{LIMIT_NAMES, LIMITS, Limit};
pub use operations::{Operations, explain_query};
pub use own_names::OwnNames;
pub use policy::{Claim, NotPermitted, workloads};
pub use seal::HeadKey;
pub use view::telling::{FEED_BACKLOG, FeedMessage};
pub use view::{Listener, SignedTrust, View};
pub use writer::Writer;
pub use writer::under_way::{Asks, MAX_LEFT_BEHIND};
pub use writer::witness::Shown;
