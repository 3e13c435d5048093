//! A next step leads somewhere: it is another command, and it ends the condition.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use system_tests::Environment;

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
        assert_eq!(json.stdout, "", "a list of steps that has none");
    }
}
