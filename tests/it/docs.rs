//! What the README says is so.

use std::collections::{BTreeMap, BTreeSet};

use conncheck_config::{COMMON_KEYS, SecretKey};
use conncheck_probes::{Phase, Reason, types};
use conncheck_rig::prometheus;
use serde_json::json;

use crate::program::{Daemon, document, run, text, write};

crate::trials![
    every_option_is_in_the_readme_and_none_is_invented,
    every_metric_is_in_the_readme_and_none_is_invented,
    every_type_and_its_properties_are_in_the_readme,
    every_reason_and_phase_is_in_the_readme,
    every_key_of_a_whole_secret_is_in_the_readme,
    every_sample_is_valid,
    every_form_and_block_of_the_readme_loads,
    the_readme_s_own_examples_are_valid,
    the_readme_s_queries_and_the_scrape_configuration_are_valid,
];

fn root() -> std::path::PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// The words in `text` that begin with `prefix` and go on with `is_part`.
fn words(text: &str, prefix: &str, is_part: impl Fn(char) -> bool + Copy) -> BTreeSet<String> {
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(is_part))
        .map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            format!("{prefix}{}", &rest[..end])
        })
        .collect()
}

fn every_option_is_in_the_readme_and_none_is_invented() {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let help = text(&run(&["--help"]).stdout);
    let ours = words(&help, "--", is_part);
    let readme = readme();
    let run_it = &readme[readme.find("## Run it").unwrap()..];
    let run_it = &run_it[..run_it.find("### The schedule").unwrap()];
    let mut told = words(run_it, "--", is_part);
    told.retain(|word| word.chars().any(char::is_alphabetic));
    let own = ["--help", "--version"].map(str::to_owned).into();
    let untold: Vec<_> = ours
        .difference(&told)
        .filter(|word| !BTreeSet::contains(&own, *word))
        .collect();
    assert!(untold.is_empty(), "not in the README: {untold:?}");
    let invented: Vec<_> = told.difference(&ours).collect();
    assert!(invented.is_empty(), "in the README only: {invented:?}");
}

fn every_metric_is_in_the_readme_and_none_is_invented() {
    let dir = tempfile::tempdir().unwrap();
    let connections = dir.path().join("connections");
    std::fs::create_dir(&connections).unwrap();
    write(
        &connections.join("a.yaml"),
        &[document("a", json!({"url": "redis://127.0.0.1:1"}))],
    );
    let metrics = Daemon::start(&connections, &[]).metrics();
    let ours: BTreeSet<String> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let readme = readme();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut told = BTreeSet::new();
    for prefix in ["probe_", "connection_", "conncheck_"] {
        told.extend(words(&readme, prefix, is_part));
    }
    // Labels, an option of a URL, and the crates.
    for other in [
        "connection_namespace",
        "connection_type",
        "connection_timeout",
        "conncheck_probes",
    ] {
        told.remove(other);
    }
    let untold: Vec<_> = ours
        .difference(&told)
        .filter(|name| !name.starts_with("process_"))
        .collect();
    assert!(untold.is_empty(), "not in the README: {untold:?}");
    let invented: Vec<_> = told.difference(&ours).collect();
    assert!(invented.is_empty(), "in the README only: {invented:?}");
}

fn every_type_and_its_properties_are_in_the_readme() {
    let readme = readme();
    for info in types::all() {
        let heading = format!("\n#### `{}`\n", info.name);
        let at = readme
            .find(&heading)
            .unwrap_or_else(|| panic!("no section for `{}`", info.name));
        let section = &readme[at + heading.len()..];
        let section = &section[..section.find("\n##").unwrap_or(section.len())];
        // The hint to an unknown property names those there are.
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        // Those that no scheme means are told by their `type`, and speak HTTP.
        let scheme = info.url_schemes.first().unwrap_or(&"http");
        let url = format!("{scheme}://127.0.0.1:1");
        let spec = json!({"type": info.name, "url": url, "username": "a", "password": "b", "properties": {"xyzzy": 1}});
        write(&file, &[document("a", spec)]);
        let said = text(&run(&["--check-config", file.to_str().unwrap()]).stdout);
        let known = said
            .lines()
            .find(|line| line.starts_with("hint: "))
            .unwrap_or_else(|| panic!("{said}"));
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        assert!(known.len() >= 2, "{said}");
        for property in known {
            assert!(
                section.contains(&format!("`{property}`")),
                "`{}`: `{property}` is not in the README",
                info.name
            );
        }
        for alias in info.aliases {
            assert!(
                readme.contains(&format!("`{alias}`")),
                "the alias `{alias}`"
            );
        }
    }
}

fn every_reason_and_phase_is_in_the_readme() {
    let readme = readme();
    for reason in Reason::ALL {
        assert!(readme.contains(&format!("`{reason}`")), "{reason}");
    }
    for phase in Phase::ALL {
        assert!(readme.contains(&format!("`{phase}`")), "{phase}");
    }
    let count = Reason::ALL.len();
    assert_eq!(count, 19, "the README says nineteen");
}

fn every_key_of_a_whole_secret_is_in_the_readme() {
    let readme = readme();
    let table = &readme[readme
        .find("\n| type | keys of a whole secret |\n")
        .unwrap()..];
    let table = &table[..table.find("\n\n").unwrap_or(table.len())];
    let mut told: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [ty, keys] = cells[..] else {
            panic!("{line}");
        };
        let keys = keys.split(';').map(named).collect();
        let twice = told.insert(ty.trim_matches('`'), keys);
        assert_eq!(twice, None, "{ty}");
    }
    let names = |keys: &[SecretKey]| keys.iter().map(|key| key.0.to_vec()).collect::<Vec<_>>();
    assert_eq!(told.remove("every type"), Some(names(&COMMON_KEYS)));
    let of_aws = told["aws"].clone();
    for info in types::all() {
        let mut keys = told.remove(info.name).unwrap_or_default();
        if let Some(at) = keys.iter().position(|names| names == &["aws"]) {
            keys.splice(at..=at, of_aws.clone());
        }
        assert_eq!(keys, names(info.secret_keys), "{}", info.name);
    }
    assert!(told.is_empty(), "no type: {told:?}");
}

/// What stands in backticks, but for the settings that a key depends on.
fn named(text: &str) -> Vec<&str> {
    let is_setting = |name: &&str| ["oauth", "awsSigV4", "auth: XOAUTH2"].contains(name);
    let names = text.split('`').skip(1).step_by(2);
    names.filter(|name| !is_setting(name)).collect()
}

fn every_sample_is_valid() {
    let samples = root().join("config/samples");
    let types = types::all().iter().map(|info| info.name);
    for name in types.chain(["legacy", "block"]) {
        let sample = samples.join(format!("{name}.yaml"));
        let output = run(&["--check-config", sample.to_str().unwrap()]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(!said.contains("warning"), "{said}");
    }
}

/// The tables show a `spec` on each line. Each is loaded, its references are followed, and its probe
/// is built.
fn every_form_and_block_of_the_readme_loads() {
    let readme = readme();
    let section = &readme[readme.find("### Every form of a manifest").unwrap()..];
    let section = &section[..4 + section[4..].find("\n### ").unwrap()];
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("`{"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let specs: Vec<&str> = rows
        .iter()
        .map(|row| row.last().unwrap().trim_matches('`'))
        .collect();
    let types_of_forms = ["documented", "legacy", "block"];
    for form in types_of_forms {
        assert!(rows.iter().any(|row| row[0] == form), "no row for {form}");
    }

    // What each block and each of its fields is called must be there.
    let blocks: Vec<_> = conncheck_config::blocks().collect();
    for block in &blocks {
        let row = rows
            .iter()
            .find(|row| row[0] == format!("`{}`", block.name))
            .unwrap_or_else(|| panic!("no row for the block `{}`", block.name));
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(
            row[3].starts_with(&format!("`{{{}: ", block.name)),
            "{row:?}"
        );
        for field in &block.fields {
            let told = [format!("`{field}`"), format!("`{field} {{")];
            let told = told.iter().any(|name| section.contains(name));
            assert!(told, "`{field}` of `{}` is not in the README", block.name);
        }
        if let Ok(info) = types::find(block.type_name) {
            assert_eq!(row[1], format!("`{}`", info.name));
        }
    }

    // Each property of the legacy form stands beside its type: in the table, or where it is refused.
    let refused = section.rsplit("\n* ").next().unwrap();
    for info in types::all() {
        let mut all = conncheck_config::legacy();
        let has_any = all.any(|legacy| legacy.type_name == info.name);
        assert!(has_any, "`{}` in the legacy form", info.name);
    }
    for legacy in conncheck_config::legacy() {
        let of = format!("`{}`", legacy.type_name);
        for name in &legacy.properties {
            let name = format!("`{name}`");
            let is_row = |row: &Vec<&str>| {
                row.len() == 4
                    && row[0].split(", ").any(|told| told == name)
                    && (row[1] == "every type" || row[1].contains(&of))
            };
            let is_refused = || refused.contains(&name) && refused.contains(&of);
            let told = rows.iter().any(is_row) || is_refused();
            assert!(told, "{name} of {of} is not in the README");
        }
    }

    let pki = conncheck_rig::Rig::shared().pki();
    let kubeconfig = conncheck_rig::apiserver::kubeconfig(
        &json!({"server": "https://127.0.0.1:1"}),
        &json!({"token": "abcdefgh"}),
    );
    let secrets = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {
            "username": "us/er@x", "password": "p@ss/w:rd?#%", "token": "tok-123456",
            "url": "https://search.example.com:9200", "kubeconfig": kubeconfig,
            "service-account.json": credentials(),
            "tls.crt": pki.client.cert_pem, "tls.key": pki.client.key_pem,
        }}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority"}, "data": {
            "ca.crt": pki.ca.cert_pem,
        }}),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for (index, spec) in specs.iter().enumerate() {
        let file = dir.path().join(format!("{index}.yaml"));
        let secrets: String = secrets
            .iter()
            .map(|secret| format!("---\n{secret}\n"))
            .collect();
        let manifest = format!(
            "apiVersion: mission-control.flanksource.com/v1\nkind: Connection\nmetadata: {{name: a}}\nspec: {spec}\n"
        );
        std::fs::write(&file, format!("{manifest}{secrets}")).unwrap();
        let output = run(&["--check-config", file.to_str().unwrap()]);
        let said = text(&output.stdout);
        // A type of the table that this build does not have (yet) is refused by its name.
        let block = blocks
            .iter()
            .find(|block| spec.starts_with(&format!("{{{}:", block.name)));
        if block.is_some_and(|block| types::find(block.type_name).is_err()) {
            assert!(
                said.contains("conncheck does not probe it"),
                "{spec}\n{said}"
            );
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{spec}\n{said}");
        assert_eq!(said, "1 valid connection in 1 file\n", "{spec}");
        checked += 1;
    }
    assert!(checked >= 45, "{checked}");
}

/// What Google's tools keep of a login. (The key of a service account would have to be a real one.)
fn credentials() -> String {
    json!({
        "type": "authorized_user", "client_id": "1", "client_secret": "abcdefgh",
        "refresh_token": "ijklmnop",
    })
    .to_string()
}

fn the_readme_s_own_examples_are_valid() {
    let readme = readme();
    let blocks: Vec<&str> = readme
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let connection = blocks
        .iter()
        .find(|block| block.contains("kind: Connection"))
        .unwrap();
    // Its authority is on nobody's disk but the owner's.
    let ca = dir.path().join("ca.pem");
    let pki = conncheck_rig::Rig::shared().pki();
    std::fs::write(&ca, &pki.ca.cert_pem).unwrap();
    let connection = connection.replace("/etc/ssl/our-ca.pem", ca.to_str().unwrap());
    std::fs::create_dir(dir.path().join("connections")).unwrap();
    std::fs::write(dir.path().join("connections/a.yaml"), connection).unwrap();
    let settings = blocks
        .iter()
        .find(|block| block.contains("# conncheck.yaml"))
        .unwrap();
    let file = dir.path().join("conncheck.yaml");
    std::fs::write(&file, settings).unwrap();
    let output = run(&["--check-config", "--config", file.to_str().unwrap()]);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("1 valid connection"), "{said}");
}

fn the_readme_s_queries_and_the_scrape_configuration_are_valid() {
    let promtool = match prometheus::promtool() {
        Ok(promtool) => promtool,
        // It comes with the servers; without them this is one of those that are skipped.
        Err(error) => {
            assert!(
                std::env::var_os("CONNCHECK_REQUIRE_SERVERS").is_none(),
                "{error}"
            );
            eprintln!("skipped: {error}");
            return;
        }
    };
    let readme = readme();
    let queries = readme
        .split("```promql\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut rules = "groups:\n- name: readme\n  rules:\n".to_owned();
    for (index, query) in queries
        .lines()
        .filter(|line| !line.starts_with('#'))
        .enumerate()
    {
        rules += &format!("  - record: q{index}\n    expr: |\n      {query}\n");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    for args in [
        vec!["check", "rules", file.to_str().unwrap()],
        vec!["check", "config", "config/prometheus/prometheus.yml"],
    ] {
        let output = std::process::Command::new(&promtool)
            .args(args)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
    }
}
