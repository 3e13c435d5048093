//! A next step leads somewhere: it is another command, and it ends the condition.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use system_tests::{Environment, Settings};

#[test]
fn explain_does_not_name_itself() {
    let environment = Environment::start();
    let (reports, batch) = (environment.id("/prod/reports"), environment.id("/prod/batch"));
    let explain = ["policy", "explain", "--as", &reports, "revoke", &batch];
    let denied = environment.countersign(&explain).exits(3);
    assert!(!denied.stdout.contains("policy explain"), "{}", denied.stdout);
    let explain = ["policy", "explain", "--as", &reports, "issue", &batch];
    environment.countersign(&explain).exits(3).says("countersign policy apply DIR");
}

#[test]
fn an_operator_without_a_place_is_told_the_right_one() {
    let environment = Environment::start();
    let bob = environment.id("/countersign/operator/bob");
    let explain = ["policy", "explain", "--as", &bob, "issue", &bob];
    let step = "add \"/countersign/operator/bob\" to the operators of workloads.json";
    environment.countersign(&explain).exits(3).says(step);
    let table = environment.path("policies/workloads.json");
    let mut table: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(table).unwrap()).unwrap();
    table["operators"].as_array_mut().unwrap().push("/countersign/operator/bob".into());
    environment.write("policies/workloads.json", &table.to_string());
    environment.countersign(&["policy", "check", "policies"]).success();
    environment.countersign(&["policy", "apply", "policies"]).success();
    environment.countersign(&explain).success();
    let reserved = environment.id("/countersign/other");
    let explain = ["policy", "explain", "--as", &reserved, "issue", &reserved];
    environment.countersign(&explain).exits(3).says("choose another path");
}

/// As README says that it may have, and then as the step says.
#[test]
fn a_folder_with_one_policy_of_its_own_is_told_how_the_shipped_ones_go_beside_it() {
    let environment = Environment::start();
    let policy = "@id(\"no-batch\")\nforbid (principal, action == Action::\"Issue\", resource)\n\
                  when { resource == Identity::\"spiffe://pay.example/prod/batch\" };\n";
    environment.write("policies/own.cedar", policy);
    let check = ["policy", "check", "policies"];
    let refused = environment.countersign(&check).exits(2);
    let step = "countersign policy shipped > policies/countersign.cedar";
    assert!(refused.stdout.contains(step), "{}", refused.stdout);
    assert!(!refused.stdout.contains("example.org"), "{}", refused.stdout);
    let refused = environment.countersign(&["policy", "apply", "policies", "--yes"]);
    assert_ne!(refused.code, 0);
    refused.says("countersign policy shipped");
    let shipped = environment.countersign(&["policy", "shipped"]).success().stdout;
    environment.write("policies/countersign.cedar", &shipped);
    environment.countersign(&check).success();
    environment.countersign(&["policy", "apply", "policies", "--yes"]).success();
    environment.issue("/prod/reports", "reports");
    let explain = ["policy", "explain", "--as"];
    let batch = environment.id("/prod/batch");
    environment.countersign(&[&explain[..], &[&batch, "issue", &batch]].concat()).exits(3);
}

#[test]
fn a_wrong_passphrase_blames_the_setting_that_it_comes_from() {
    let environment = Environment::start();
    let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();
    let wrong = environment.path("wrong");
    environment.write("wrong", "a long passphrase of another CA\n");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&wrong, permissions).unwrap();
    for setting in ["offline_passphrase_file", "passphrase_file"] {
        let changed: Vec<String> = config
            .lines()
            .map(|line| match line.starts_with(&format!("{setting} ")) {
                true => format!("{setting} = {wrong:?}"),
                false => line.to_owned(),
            })
            .collect();
        environment.write("changed.toml", &changed.join("\n"));
        environment
            .countersign(&["issuer", "prepare", "--config", "changed.toml"])
            .exits(1)
            .says(&format!("check `{setting}`"));
    }
}

#[test]
fn rotate_says_that_nothing_is_due_and_what_comes_next() {
    let environment = Environment::start();
    for options in [&[][..], &["--dry-run"]] {
        let rotate = [&["rotate", "--config", "ca.toml"][..], options].concat();
        let said = environment.countersign(&rotate).success().stdout;
        assert!(said.starts_with("nothing is due; next: prepare "), "{said}");
        assert!(said.contains(" in "), "{said}");
        let json = environment.countersign(&[&["--json"][..], &rotate].concat()).success();
        let json = json.json();
        assert_eq!(json["nothing_due"], true, "{json}");
        assert!(json["next"]["step"] == "prepare" && json["next"]["at"].is_string(), "{json}");
    }
}

/// Typed as it is printed, in the folder where it was printed.
fn typed(environment: &Environment, line: &str) -> system_tests::Outcome {
    let binary = system_tests::binary();
    let line = line.replacen("countersign ", &format!("'{}' ", binary.display()), 1);
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", &line]).current_dir(environment.folder()).env_clear();
    bash.env("HOME", environment.folder()).env("PATH", "/usr/bin:/bin");
    system_tests::program(bash.stdin(std::process::Stdio::null()))
}

/// What stands behind these words, to the end of the line.
fn behind(said: &system_tests::Outcome, words: &str) -> String {
    let said = format!("{}{}", said.stdout, said.stderr);
    let step = said.split(words).nth(1).unwrap_or_else(|| panic!("no {words:?} in {said}"));
    step.lines().next().unwrap().to_owned()
}

#[test]
fn a_path_is_printed_as_one_word_whatever_stands_in_it() {
    let environment = Environment::start();
    let reports = environment.id("/prod/reports");
    for folder in ["plain", "two words", "it's $HOME", "a\nline", "~", "ä (b) & c;d"] {
        let issued = environment.countersign(&["issue", &reports, "--out", folder]).success();
        typed(&environment, &behind(&issued, "renew it with: ")).success();
        // What is trusted is gone, and fetched by the line that says so.
        std::fs::remove_file(environment.path(folder).join("trust.note")).unwrap();
        let renew = environment.countersign(&["renew", folder]).exits(1);
        typed(&environment, &behind(&renew, "next: ")).success();
        environment.countersign(&["renew", folder]).success();
        // What cannot be used is replaced by the same line; where it leads elsewhere, that goes first.
        for spoil in ["printf x >", "true >", "ln -sf /etc/hostname"] {
            let spoil = format!(
                "cd {}; {spoil} trust.note",
                format_args!("'{}'", folder.replace('\'', r"'\''"))
            );
            typed(&environment, &spoil).success();
            let renew = environment.countersign(&["renew", folder]);
            let next = behind(&renew, "next: ");
            let is_removed = next.starts_with("rm ");
            assert_eq!(is_removed, spoil.contains("ln -sf"), "{spoil}: {next}");
            typed(&environment, &next).success();
            environment.countersign(&["renew", folder]).success();
        }
    }
    let nothing = environment.countersign(&["renew", "no such"]).exits(1);
    assert_eq!(behind(&nothing, "next: "), "countersign issue SPIFFE_ID --out 'no such'");
    let init = ["init", "--config", "a config.toml", "--context", "second"];
    let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();
    environment.write("a config.toml", &config.replace("/state\"", "/other\""));
    let made = environment.countersign(&init).success();
    assert_eq!(behind(&made, "next: "), "countersign serve --config 'a config.toml'");
}

#[test]
fn a_printed_command_finds_the_configuration_whatever_its_path_is() {
    let environment = Environment::start();
    let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();
    std::fs::create_dir(environment.path("it's \"two\"; `x`")).unwrap();
    let path = "it's \"two\"; `x`/$ca.toml";
    environment.write(path, &config);
    environment.countersign(&["issuer", "prepare", "--config", path]).success();
    let again = environment.countersign(&["issuer", "prepare", "--config", path]).exits(1);
    let next = behind(&again, "next: `");
    let step = next.strip_suffix("` goes on with it").unwrap();
    assert_eq!(step, r#"countersign rotate --config 'it'\''s "two"; `x`/$ca.toml'"#);
    typed(&environment, step).success();
}

/// They are read long after `serve` was typed, in another folder or on another host.
#[test]
fn what_a_service_tells_names_its_configuration_from_any_folder() {
    for form in ["text", "json"] {
        let serve_options = vec!["--log-format".to_owned(), form.to_owned()];
        let mut environment =
            Environment::start_with(&Settings { serve_options, ..Settings::default() });
        environment.stop();
        std::fs::remove_file(environment.path("state/keys/feed.key")).unwrap();
        environment.serve_until("503");
        let config = environment.path("ca.toml").display().to_string();
        let steps = ["key prepare feed", "rotate"];
        let steps = steps.map(|step| format!("countersign {step} --config {config}")).join("; ");
        let (ready, log) = (environment.admin("/readyz"), environment.log());
        assert!(ready.contains(&steps), "{ready}");
        let errors = log.lines().filter(|line| line.contains("ERROR"));
        assert!(
            errors.clone().count() > 0 && errors.clone().all(|line| line.contains(&steps)),
            "{log}"
        );
        if form == "json" {
            let objects = log.lines().skip_while(|line| !line.contains("ERROR"));
            assert!(
                objects.clone().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
            );
        }
        let status = environment.countersign(&["status", "--json"]).success().json();
        let told = status["not_ready"].as_str().unwrap();
        assert!(told.contains(&steps), "{told}");
        let elsewhere = tempfile::tempdir().unwrap();
        for step in steps.split("; ") {
            let words: Vec<&str> = step.split(' ').skip(1).collect();
            let mut command = environment.in_time(&words);
            system_tests::program(command.current_dir(elsewhere.path())).success();
        }
        environment.stop();
        environment.serve();
    }
}

#[test]
fn steps_name_what_there_is() {
    let environment = Environment::start();
    let reports = environment.id("/prod/reports");
    let token = environment.countersign(&["token", "revoke", "xyz"]).exits(1);
    typed(&environment, behind(&token, "next: ").split('`').nth(1).unwrap()).success();
    let long = ["issue", &reports, "--out", "svid", "--ttl", "90d"];
    let long =
        environment.countersign(&long).exits(1).says("a validity of 90d was asked, from 5m to 7d");
    assert_eq!(behind(&long, "next: "), "ask for 7d: --ttl 7d");
    environment.countersign(&["issue", &reports, "--out", "svid", "--ttl", "7d"]).success();
    environment
        .countersign(&["dev", "env", "/x"])
        .exits(2)
        .says("in another terminal: countersign dev");
    let other = environment.countersign(&["context", "use", "prod"]).exits(2);
    other.says("known: pay.example").says("`countersign context list`");
    let explain = ["policy", "explain", "--as", &reports, "fly", &reports];
    environment.countersign(&explain).exits(1).says("issue, renew, revoke");
}

#[test]
fn another_trust_domain_or_an_older_state_has_a_step() {
    let environment = Environment::start();
    let other = "spiffe://other/prod/reports";
    for line in [
        &["token", "create", other][..],
        &["deny", other, "--reason", "superseded", "--yes"],
        &["revoke", other, "--reason", "superseded", "--yes"],
    ] {
        let refused = environment.countersign(line).exits(1);
        refused.says("next: name one of it: spiffe://pay.example/prod/reports").says("--context");
    }
    let newer = format!("{}@99", environment.pin().split('@').next().unwrap());
    let fetch = ["trust", "fetch", &environment.url(), "--pin", &newer];
    environment.countersign(&fetch).exits(5).says("next: ").says("countersign trust pin");
    environment.countersign(&["inspect", ""]).exits(1).says("cannot read ''");
    let none = environment.countersign(&["list", "--id", ""]).success();
    assert!(none.stderr.contains("'*' is like every one"), "{none:?}");
}

#[test]
fn steps_name_what_can_be_typed() {
    let environment = Environment::start();
    let nobody = "spiffe://pay.example";
    let token = environment.countersign(&["token", "create", nobody]);
    token.exits(1).says("names a trust domain, and no workload").says("token create");
    let tokens = environment.countersign(&["token", "list"]).success().stdout;
    assert!(!tokens.contains(nobody), "{tokens}");
    let unknown = environment.countersign(&["show", "spiffe://pay.example/prod/nobody"]);
    unknown.exits(1).says("countersign list --id 'spiffe://pay.example/*'");
    environment.countersign(&["list", "--id", "spiffe://pay.example/*"]).success();

    let openssl = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / \
                   -keyout request.key -out request.csr";
    let body = serde_json::json!({
        "attestation": { "type": "token", "token": environment.token("/prod/reports") },
        "csr": "no request", "spiffe_id": "spiffe://pay.example/prod/reports",
    });
    let body = body.to_string();
    let options = ["--data", body.as_str(), "-H", "Content-Type: application/json"];
    let said = environment.curl("/v1/certificates", &options).success();
    said.says(&format!("openssl {openssl}"));
    let arguments: Vec<&str> = openssl.split_whitespace().collect();
    system_tests::openssl(environment.folder(), &arguments).success();
    let (id, url) = (environment.id("/prod/reports"), environment.url());
    environment.write("token", &environment.token("/prod/reports"));
    let issue = ["issue", &id, "--url", &url, "--token-file", "token", "--csr", "request.csr"];
    environment.countersign(&issue).success().says("BEGIN CERTIFICATE");
}

#[test]
fn a_place_where_nothing_can_be_written_has_a_step() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    environment.write("file", "");
    std::fs::create_dir(environment.path("folder")).unwrap();
    let create = |out| environment.countersign(&["token", "create", &id, "--out", out]).exits(1);
    let issue = |out| environment.countersign(&["issue", &id, "--out", out]).exits(1);
    create("nowhere/token").says("next: mkdir -p nowhere");
    create("file/token").says("next: name another place");
    create("folder").says("next: name a file");
    issue("/dev/null/x").says("next: name another place: /dev/null");
    issue("file/x/y").says("next: name another place: file/x");
    let mut dev = environment.in_time(&["dev", "--tour", "off"]);
    let dev = system_tests::program(dev.env("TMPDIR", "/nowhere")).exits(1);
    dev.says("no folder can be made in /nowhere").says("next: export TMPDIR=");
    let dev = environment.countersign(&["dev", "--tour", "off", "--state", "/proc"]).exits(1);
    dev.says("/proc/dev.lock").says("next: ");
}
