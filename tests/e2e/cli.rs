//! The command line as scripts see it: exit codes, JSON, contexts, Ctrl-C. Real processes against a real
//! gateway.

use plexus_tests::{
    eventually,
    process::{Plexus, binary},
    redis::{Server, free_port},
};
use serde_json::Value;
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A user with a folder of its own.
struct User {
    home: PathBuf,
    url: String,
}

/// What a command left behind.
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl User {
    fn new(name: &str, url: String) -> Self {
        let home = std::env::temp_dir().join(format!("plexus-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        Self { home, url }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env("XDG_CONFIG_HOME", &self.home).env("PLEXUS_URL", &self.url).kill_on_drop(true);
        for name in
            ["PLEXUS_CONTEXT", "PLEXUS_TOKEN", "PLEXUS_CA", "PLEXUS_CERT", "PLEXUS_KEY", "PLEXUS_CONFIG"]
        {
            command.env_remove(name);
        }
        command
    }

    async fn run(&self, args: &[&str]) -> Outcome {
        done(self.command(args)).await
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

async fn done(mut command: Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// What is run, its exit code, and what it says on standard output, or on standard error if it failed. `NOBODY`
/// is an address at which nobody answers.
const ROWS: &[(&[&str], i32, &str)] = &[
    (&["--version"], 0, "plexus 0.1.0"),
    (&["help"], 0, "Exit codes"),
    (&["up", "--help"], 0, "Examples:"),
    (&["nonsense"], 2, "nonsense"),
    (&["pub", "demo"], 2, "MESSAGE"),
    (&["pub", "demo", "hello"], 0, "LOGGED"),
    (&["pub", "demo", "hello", "--json"], 0, "\"level\":\"LOGGED\""),
    (&["pub", "demo", "hello", "--min-peers", "1", "--timeout", "1s"], 1, "NOT_ENOUGH_PEERS"),
    (&["pub", "demo", "hello", "--level", "most"], 2, "most"),
    (&["pub", "", "hello"], 2, "topic"),
    (&["sub", "demo", "--after", "0", "--limit", "2"], 0, "hello"),
    (&["sub", "demo", "--after", "0", "--limit", "1", "--json"], 0, "\"message\""),
    (&["sub", "demo", "--after", "yesterday"], 2, "after"),
    (&["topic", "ls"], 0, "demo"),
    (&["topic", "show", "demo", "--json"], 0, "\"topic\":\"demo\""),
    (&["topic", "log", "demo"], 0, "hello"),
    (&["topic", "pin", "kept"], 0, "pinned"),
    (&["topic", "unpin", "kept", "--json"], 0, "{}"),
    (&["node", "create", "alpha"], 0, "alpha"),
    (&["node", "create", "alpha"], 1, "NODE_EXISTS"),
    (&["node", "create", "Alpha"], 2, "id"),
    (&["node", "create", "beta", "--spec", "{"], 2, "NodeSpec"),
    (&["node", "create", "beta", "--spec", "@/nowhere"], 2, "/nowhere"),
    (&["node", "ls", "--json"], 0, "\"id\":\"alpha\""),
    (&["node", "show", "alpha"], 0, "RUNNING"),
    (&["node", "show", "nobody"], 3, "NODE_NOT_FOUND"),
    (&["node", "show", "nobody", "--json"], 3, "\"reason\":\"NODE_NOT_FOUND\""),
    (&["node", "id", "alpha"], 0, "peer id"),
    (&["node", "id", "alpha", "--json"], 0, "\"peerId\""),
    (&["node", "bootstrap", "ls", "--node", "alpha"], 0, "ADDRESS"),
    (&["node", "where", "alpha"], 0, "PREFERENCE"),
    (&["node", "where", "alpha", "--json"], 0, "\"candidates\""),
    (&["node", "move", "alpha", "--to", "nowhere"], 3, "WORKER_NOT_FOUND"),
    (&["node", "move", "alpha"], 1, "NO_CANDIDATE"),
    (&["worker", "ls"], 0, "READY"),
    (&["worker", "ls", "--json"], 0, "\"state\":\"READY\""),
    (&["worker", "show", "nowhere"], 3, "WORKER_NOT_FOUND"),
    (&["worker", "drain", "nowhere"], 3, "WORKER_NOT_FOUND"),
    (&["worker", "drain", "x", "--nodes-per-second", "101"], 2, "nodesPerSecond"),
    (&["gateway", "ls"], 0, "yes"),
    (&["node", "stop", "alpha"], 0, "alpha"),
    (&["node", "rm", "alpha"], 0, ""),
    (&["node", "rm", "alpha"], 3, "NODE_NOT_FOUND"),
    (&["peer", "ls"], 0, "PEER"),
    (&["peer", "show", "x"], 2, "BAD_PEER_ID"),
    (&["peer", "block", "203.0.113.0/24", "--json"], 0, "203.0.113.0/24"),
    (&["peer", "blocks"], 0, "203.0.113.0/24"),
    (&["peer", "unblock", "203.0.113.0/24"], 0, ""),
    (&["node", "ls", "--url", "NOBODY"], 4, "no gateway answers"),
    (&["node", "ls", "--url", "NOBODY", "--json"], 4, "{\"message\":"),
    (&["node", "ls", "--url", "https://plexus.example", "--ca", "/nowhere"], 2, "--ca: /nowhere"),
    (&["node", "ls", "--url", "localhost:8080"], 2, "http://"),
    (&["node", "ls", "--url", "NOBODY", "--context", "x"], 2, "cannot be used with"),
    (&["node", "ls", "--context", "x"], 3, "no context"),
    (&["node", "ls", "--timeout", "soon"], 2, "timeout"),
    (&["config", "check"], 0, "ok"),
    (&["config", "check", "--json"], 0, "{\"ok\":true}"),
    (&["config", "check", "--role", "worker"], 1, "bus.url"),
    (&["config", "check", "/nowhere.toml"], 1, "/nowhere.toml"),
    (&["config", "print", "--json"], 0, "\"log\":"),
    (&["worker", "--bus", "memory:"], 1, "bus.url"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_tls_is_reached_by_who_trusts_its_certificate() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut user = User::new("tls", String::new());
    let file = |name: &str, text: String| {
        let path = user.home.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) =
        (file("cert.pem", made.cert.pem()), file("key.pem", made.key_pair.serialize_pem()));
    let settings =
        [("PLEXUS__GATEWAY__TLS__CERTIFICATE", &*certificate), ("PLEXUS__GATEWAY__TLS__KEY", &*key)];
    let up = Plexus::start("up", "memory:", &settings).await;
    user.url = format!("https://{}", up.address);
    let known = user.run(&["pub", "demo", "hello", "--ca", &certificate]).await;
    assert_eq!(known.code, 0, "{}{}", known.out, known.err);
    let unknown = user.run(&["pub", "demo", "hello"]).await;
    assert_eq!(unknown.code, 4, "{}{}", unknown.out, unknown.err);
    assert!(unknown.err.contains("UnknownIssuer"), "{}", unknown.err);
    user.url = format!("http://{}", up.address);
    let plain = user.run(&["pub", "demo", "hello"]).await;
    assert_eq!(plain.code, 4, "nothing but TLS is spoken: {}", plain.err);
    assert!(plain.err.contains("the port speaks TLS: try https://"), "{}", plain.err);
    let url = format!("https://{}", up.address);
    let added = user.run(&["context", "add", "tls", "--url", &url, "--ca-file", &certificate]).await;
    assert_eq!(added.code, 0, "{}", added.err);
    let named = user.run(&["sub", "demo", "--after", "0", "--limit", "1", "--context", "tls"]).await;
    assert_eq!(named.code, 0, "{}{}", named.out, named.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_asks_for_a_certificate_is_reached_by_who_has_one() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut user = User::new("certificates", String::new());
    let (cert, key) = (user.home.join("cert.pem"), user.home.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    // The same certificate is the gateway's, the client's and the authority that signed both.
    let settings = [
        ("PLEXUS__GATEWAY__TLS__CERTIFICATE", cert),
        ("PLEXUS__GATEWAY__TLS__KEY", key),
        ("PLEXUS__GATEWAY__TLS__CLIENT_CERTIFICATES", "require"),
        ("PLEXUS__GATEWAY__TLS__CLIENT_CA", cert),
    ];
    let up = Plexus::start("up", "memory:", &settings).await;
    user.url = format!("https://{}", up.address);
    let shown = user.run(&["pub", "demo", "hello", "--ca", cert, "--cert", cert, "--key", key]).await;
    assert_eq!(shown.code, 0, "{}{}", shown.out, shown.err);
    let without = user.run(&["pub", "demo", "hello", "--ca", cert]).await;
    assert_eq!(without.code, 4, "{}{}", without.out, without.err);
    let half = user.run(&["pub", "demo", "hello", "--cert", cert]).await;
    assert_eq!(half.code, 2, "{}", half.err);
    let mut command = user.command(&["pub", "demo", "hello"]);
    command.env("PLEXUS_CA", cert).env("PLEXUS_CERT", cert).env("PLEXUS_KEY", key);
    assert_eq!(done(command).await.code, 0, "the environment says the same");
    let files = ["--ca-file", cert, "--cert-file", cert, "--key-file", key];
    let url = user.url.clone();
    let added = user.run(&[&["context", "add", "own", "--url", &url], &files[..]].concat()).await;
    assert_eq!(added.code, 0, "{}", added.err);
    let named = user.run(&["sub", "demo", "--after", "0", "--limit", "1", "--context", "own"]).await;
    assert_eq!(named.code, 0, "{}{}", named.out, named.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expects_tls_of_a_plain_port_is_told() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let user = User::new("scheme", format!("https://{}", up.address));
    let told = user.run(&["node", "ls"]).await;
    assert_eq!(told.code, 4, "{}", told.err);
    assert!(told.err.contains("the port speaks no TLS: try http://"), "{}", told.err);
    let json = user.run(&["node", "ls", "--json"]).await;
    let told: Value = serde_json::from_str(&json.err).unwrap();
    assert!(told["message"].as_str().unwrap().ends_with("try http://"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_code_is_the_documented_one() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let user = User::new("codes", format!("http://{}", up.address));
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (args, code, says) in ROWS {
        let args: Vec<_> = args.iter().map(|a| if *a == "NOBODY" { nobody.as_str() } else { a }).collect();
        let outcome = user.run(&args).await;
        let Outcome { out, err, .. } = &outcome;
        assert_eq!(outcome.code, *code, "{args:?}: {out}{err}");
        let said = if *code == 0 { out } else { err };
        assert!(said.contains(says), "{args:?} says {says:?}: {out}{err}");
        if args.contains(&"--json") {
            for line in said.lines() {
                let parsed: Result<Value, _> = serde_json::from_str(line);
                assert!(parsed.is_ok_and(|v| v.is_object()) || *code == 2, "{args:?}: {line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_says_which_gateway() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let user = User::new("contexts", String::new());
    let url = format!("http://{}", up.address);
    assert_eq!(user.run(&["context", "add", "here", "--url", &url]).await.code, 0);
    assert_eq!(user.run(&["context", "add", "gone", "--url", "http://127.0.0.1:1"]).await.code, 0);
    assert_eq!(user.run(&["node", "ls"]).await.code, 0, "the first is the current one");
    assert_eq!(user.run(&["node", "ls", "--context", "gone"]).await.code, 4);
    assert_eq!(user.run(&["context", "use", "gone"]).await.code, 0);
    assert_eq!(user.run(&["node", "ls"]).await.code, 4);
    assert_eq!(user.run(&["node", "ls", "--context", "here"]).await.code, 0);
    let mut named = user.command(&["node", "ls"]);
    named.env("PLEXUS_CONTEXT", "here");
    assert_eq!(done(named).await.code, 0);
    let mut pointed = user.command(&["node", "ls"]);
    pointed.env("PLEXUS_URL", &url);
    assert_eq!(done(pointed).await.code, 0, "PLEXUS_URL wins over the current context");
    let listed = user.run(&["context", "ls"]).await.out;
    assert!(listed.lines().any(|l| l.starts_with("*  gone")), "{listed}");
    assert_eq!(user.run(&["context", "rm", "gone"]).await.code, 0);
    assert_eq!(user.run(&["context", "rm", "gone"]).await.code, 3);
    let listed = user.run(&["context", "ls", "--json"]).await.out;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    std::fs::write(user.home.join("plexus/contexts.toml"), "nonsense = 1").unwrap();
    let broken = user.run(&["context", "ls"]).await;
    assert!(broken.code == 1 && broken.err.contains("contexts.toml"), "{}", broken.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_scripts_of_their_shells() {
    let user = User::new("completion", String::new());
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef plexus"), ("fish", "complete -c plexus")]
    {
        let script = user.run(&["completion", shell]).await;
        assert!(script.code == 0 && script.out.contains(mark), "{shell}");
        if shell == "bash" {
            let path = user.home.join("completion");
            std::fs::write(&path, &script.out).unwrap();
            let mut check = Command::new("bash");
            check.arg("-n").arg(&path);
            assert_eq!(done(check).await.code, 0);
        }
    }
}

fn interrupt(child: &tokio::process::Child) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_reader_with_130_and_a_server_with_0() {
    let user = User::new("ctrl-c", String::new());
    let (port, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut up = user.command(&["up", "--listen", &port, "--admin", &admin]);
    let mut up = up.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut log = BufReader::new(up.stderr.take().unwrap()).lines();
    while let Some(line) = log.next_line().await.unwrap() {
        if line.contains("health and metrics") {
            break;
        }
    }
    let url = format!("http://{port}");
    let mut sub = user.command(&["sub", "demo", "--url", &url]);
    let mut sub = sub.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(sub.stderr.take().unwrap()).lines();
    assert!(said.next_line().await.unwrap().unwrap().starts_with("following demo"));
    interrupt(&sub);
    let code = tokio::time::timeout(PATIENCE, sub.wait()).await.unwrap().unwrap().code();
    assert_eq!(code, Some(130));
    interrupt(&up);
    let code = tokio::time::timeout(PATIENCE, up.wait()).await.unwrap().unwrap().code();
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_publish_that_waits_for_its_input() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let user = User::new("input", format!("http://{}", up.address));
    let mut publish = user.command(&["pub", "demo", "-"]);
    let mut publish = publish.stdin(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", publish.id().unwrap());
    // Before it listens to the signal, the signal ends it without a code.
    eventually(PATIENCE, || async {
        let status = std::fs::read_to_string(&status)?;
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:\t")).unwrap_or("0");
        let listens = u64::from_str_radix(caught, 16)? & 2 != 0;
        if listens { Ok(()) } else { Err(anyhow::anyhow!("{caught}")) }
    })
    .await;
    interrupt(&publish);
    let code = tokio::time::timeout(PATIENCE, publish.wait()).await.unwrap().unwrap().code();
    assert_eq!(code, Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_selftest_passes_where_all_is_well_and_leaves_nothing_behind() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let user = User::new("selftest", format!("http://{}", up.address));
    let test = user.run(&["selftest", "--json"]).await;
    assert_eq!(test.code, 0, "{}{}", test.out, test.err);
    let steps: Vec<Value> = test.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(steps.len(), 8, "{}", test.out);
    assert!(steps.iter().all(|s| s["ok"] == true && s["ms"].is_number()), "{}", test.out);
    assert!(!user.run(&["node", "ls"]).await.out.contains("selftest-"));
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let test = user.run(&["selftest", "--url", &nobody]).await;
    assert_eq!(test.code, 4, "{}", test.out);
    assert!(test.out.starts_with("FAIL"), "{}", test.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    let redis = Server::start();
    let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let settings = [("PLEXUS__WORKER__KEYS__KEY", key)];
    let up = Plexus::start("up", &redis.url(), &settings).await;
    let user = User::new("doctor", format!("http://{}", up.address));
    let (bus, admin) = (redis.url(), up.admin.to_string());
    let well = user.run(&["doctor", "--bus", &bus, "--admin", &admin, "--json"]).await;
    assert_eq!(well.code, 0, "{}{}", well.out, well.err);
    let verdicts = |out: &str| -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let lines = out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines.map(|l| (text(&l["check"]), text(&l["verdict"]))).collect()
    };
    let found = verdicts(&well.out);
    for (check, verdict) in [
        ("config", "OK"),
        ("redis.version", "OK"),
        ("redis.eviction", "OK"),
        // The server of the tests keeps nothing and has no replica.
        ("redis.persistence", "WARN"),
        ("redis.replication", "WARN"),
        ("redis.clock", "OK"),
        ("gateway", "OK"),
        ("gateway.clock", "OK"),
        ("admin.live", "OK"),
        ("admin.ready", "OK"),
    ] {
        assert!(found.contains(&(check.into(), verdict.into())), "{check} {verdict}: {}", well.out);
    }
    let nobody = format!("127.0.0.1:{}", free_port());
    let (url, bus) = (format!("http://{nobody}"), format!("redis://{nobody}"));
    let ill = user
        .run(&["doctor", "--role", "worker", "--bus", &bus, "--url", &url, "--admin", &nobody, "--json"])
        .await;
    assert_eq!(ill.code, 1, "{}", ill.out);
    let found = verdicts(&ill.out);
    for check in ["config", "redis", "gateway", "admin.live", "admin.ready"] {
        assert!(found.contains(&(check.into(), "FAIL".into())), "{check}: {}", ill.out);
    }
}
