//! The library against real sockets, with certificates made in the test.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

mod authority;
mod authority_client;
mod bootstrap;
mod clocks;
mod credentials;
mod cut_off;
mod deceived;
mod endpoints;
mod feed_stream;
mod following;
mod forgeries;
mod handshakes;
mod kept;
mod last_answer;
mod listening;
mod live;
mod mutual_http;
mod refusals;
mod registering;
mod renewing;
mod replies;
mod resuming;
mod server;
mod serving;
mod slow_readers;
mod staleness;
mod stand_in;
mod trusting;
mod verification;
mod without_end;
