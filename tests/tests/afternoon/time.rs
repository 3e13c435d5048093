//! Slips of clocks, by a library that others wrote: no clock of this machine is touched.

use std::fs;
use std::os::unix::fs::symlink;

use system_tests::{Environment, Settings, binary};

use super::slip::types;

/// As on a machine that started with the wrong time, of which the clock's own file knows nothing then.
#[test]
fn a_log_that_is_ahead_goes_on_from_the_right_time() {
    let mut environment = prepared();
    types(&environment, "countersign init --config ca.toml; rm state/clock").success();
    let ahead = "timeout 60 faketime -f +2d countersign serve --config ca.toml > >(tee ahead) 2>&1 &\n\
        serve=$!; until grep -qs 'serving https://' ahead; do kill -0 $serve; sleep 0.1; done\n\
        kill $serve; wait $serve || :";
    types(&environment, ahead).success().says("serving https://");
    let said = types(&environment, "timeout 60 countersign serve --config ca.toml").stderr;
    assert!(said.contains("behind the log"), "{said}");
    assert!(said.contains("--accept-clock"), "{said}");
    let recover = "countersign init --config ca.toml --recover";
    types(&environment, &format!("{recover} --accept-clock")).success().says("goes on from it");
    environment.serve();
    types(&environment, "issue reports after; countersign verify after/svid.pem").success();
}

#[test]
fn a_clock_that_leapt_ahead_is_set_right() {
    let mut environment = prepared();
    types(&environment, "countersign init --config ca.toml").success();
    let ahead = "timeout 60 faketime -f +2d countersign serve --config ca.toml";
    let said = types(&environment, ahead).stderr;
    // The moments between its look at the clock and its look at the time since start count, or not.
    let told =
        ["1d23h59m", "2d"].map(|leap| said.contains(&format!("clock leapt ahead by {leap}")));
    assert!(told.contains(&true), "{said}");
    assert!(said.contains("nothing is written until it is set right"), "{said}");
    environment.serve();
    types(&environment, "issue reports after; countersign verify after/svid.pem").success();
}

#[test]
fn an_operator_whose_certificate_has_ended_gets_another_on_the_host() {
    let mut environment = prepared();
    types(&environment, "faketime -f -8d countersign init --config ca.toml").success();
    let recover = "countersign init --config ca.toml --recover";
    types(&environment, "countersign status").exits(1).says("expired at").says("init --recover");
    // Its clock was wrong when it was made: that counts now.
    types(&environment, recover).exits(1).says("--accept-clock");
    types(&environment, &format!("{recover} --accept-clock")).success();
    environment.serve();
    types(&environment, "countersign status; issue reports after").success();
}

/// Not only its log is ahead: what its root and its issuer certify begins only then.
#[test]
fn a_ca_made_while_the_clock_was_ahead_is_repaired_by_what_serve_says() {
    let recover = "countersign init --config ca.toml --recover";
    for ahead in ["+3h", "+2d", "+500d"] {
        let mut environment = prepared();
        let init = format!("faketime -f {ahead} countersign init --config ca.toml; rm state/clock");
        types(&environment, &init).success();
        let said = types(&environment, "timeout 20 countersign serve --config ca.toml").exits(1);
        let said = said.says("the issuer's certificate begins at 20").says("the clock says 20");
        said.says("stop the CA, countersign init --recover --accept-clock");
        types(&environment, recover).exits(1).says("--accept-clock");
        let accept = format!("{recover} --accept-clock");
        // Root and trust keys may be elsewhere, as they should be.
        let without = format!("mv state/offline kept; {accept} || code=$?; mv kept state/offline");
        types(&environment, &format!("{without}; exit $code"))
            .exits(1)
            .says("put that folder back");
        types(&environment, &accept).success().says("new certificates for the same keys");
        environment.serve();
        let proof = "countersign status; issue reports after; countersign verify after/svid.pem\n\
                     cd after; openssl verify -CAfile bundle.pem -untrusted svid.pem svid.pem";
        types(&environment, proof).success();
        types(&environment, "countersign rotate --config ca.toml").success();
        assert_eq!(environment.stop(), 0);
    }
}

/// Ten years after `init`, and on a disk that has lost the issuer's key.
#[test]
fn a_root_that_has_ended_and_an_issuer_that_is_lost_are_repaired_by_one_command() {
    let mut environment = prepared();
    let init = "faketime -f -3700d countersign init --config ca.toml\n\
                rm state/clock state/keys/issuer.key";
    types(&environment, init).success();
    let said = types(&environment, "timeout 20 countersign serve --config ca.toml").exits(1);
    said.says("--replace-lost-issuer");
    let repair = "countersign init --config ca.toml --recover --replace-lost-issuer";
    let without = format!("mv state/offline kept; {repair} || code=$?; mv kept state/offline");
    types(&environment, &format!("{without}; exit $code")).exits(1).says("put that folder back");
    let repaired = types(&environment, repair).success();
    repaired.says("another issuer took the place").says("its root has a new certificate");
    environment.serve();
    let proof = "countersign status; issue reports after; countersign verify after/svid.pem\n\
                 cd after; openssl verify -CAfile bundle.pem -untrusted svid.pem svid.pem";
    types(&environment, proof).success();
    assert_eq!(environment.stop(), 0);
}

#[test]
fn whose_clock_is_wrong_is_told_to_compare_the_clocks_and_nothing_else() {
    let mut environment = prepared();
    types(&environment, "countersign init --config ca.toml").success();
    environment.serve();
    for wrong in ["-1d", "+3d", "-40d"] {
        let said = types(&environment, &format!("faketime -f {wrong} countersign status")).exits(5);
        assert!(said.stderr.contains("this machine's clock says"), "{wrong}: {}", said.stderr);
        assert!(!said.stderr.contains("trust fetch"), "{wrong}: {}", said.stderr);
    }
    let said = types(&environment, "faketime -f +40d countersign status").exits(1).stderr;
    assert!(said.contains("by this machine's clock it is"), "{said}");
    types(&environment, "countersign status").success();
}

fn prepared() -> Environment {
    let environment = Environment::prepare(&Settings::default());
    fs::create_dir(environment.path("bin")).unwrap();
    symlink(binary(), environment.path("bin/countersign")).unwrap();
    environment
}
