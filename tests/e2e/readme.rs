//! The commands of the README and of the documents work when pasted, in the order in which they stand.

use crate::dialects::ws::Session;
use futures::StreamExt;
use plexus_tests::{
    eventually,
    process::{Plexus, binary},
    redis::{Server, free_port},
};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;

/// Seconds after which a command that follows something is ended.
const FOLLOW: &str = "4";
const PATIENCE: Duration = Duration::from_secs(30);

/// What a document's commands need that a test of this file has not, and what runs them instead.
const ELSEWHERE: [(&str, &str); 10] = [
    ("make ", "CI"),
    ("npm ", "make clients"),
    ("cd examples/", "make clients"),
    ("python", "make clients"),
    ("pip ", "make clients"),
    ("mypy ", "make clients"),
    ("./generate.sh", "make clients"),
    ("cargo run -q -p plexus -- up --config examples/browser.toml", "make clients"),
    ("PLEXUS_CONFIG=examples/browser.toml make run", "make clients"),
    ("grpcurl ", "make conformance, by reflection"),
];

/// The commands of all blocks of a document that show a console, continued lines joined.
fn commands_of(document: &str) -> Vec<String> {
    let text = self::document(document);
    let blocks = text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let joined = blocks.map(|block| block.replace("\\\n", " ")).collect::<String>();
    joined.lines().filter_map(|line| line.strip_prefix("$ ").map(ToOwned::to_owned)).collect()
}

fn document(path: &str) -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

fn commands() -> Vec<String> {
    commands_of("README.md")
}

/// A shell of a user who has the program, in a folder of its own.
fn shell(command: &str, folder: &std::path::Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = binary().parent().unwrap().to_owned();
    let mut shell = Command::new("timeout");
    shell.args([FOLLOW, "bash", "-c", command]).current_dir(folder).kill_on_drop(true);
    shell.env("PATH", format!("{}:{path}", programs.display())).env("XDG_CONFIG_HOME", folder);
    shell.stdin(Stdio::null());
    shell
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("plexus-readme-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Pastes the client's commands of a document, and answers how many there were.
async fn paste(document: &str) -> usize {
    let up = Plexus::start("up", "memory:", &[]).await;
    let (folder, mut run) = (folder(&document.replace('/', "-")), 0);
    // A placeholder cannot be pasted, and servers have a test of their own.
    let client = |c: &&String| (c.starts_with("curl ") || c.starts_with("plexus ")) && !c.contains(['…']);
    for command in commands_of(document).iter().filter(client).filter(|c| !c.contains("--bus")) {
        let local = command.replace("localhost:8080", &up.address.to_string());
        let mut shell = shell(&local, &folder);
        shell.env("PLEXUS_URL", format!("http://{}", up.address));
        shell.env("PLEXUS__ADMIN__LISTEN", up.admin.to_string());
        let output = shell.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => {}
            Some(124) => assert!(!said.is_empty(), "{document}: {command} follows and says nothing"),
            code => {
                let err = String::from_utf8_lossy(&output.stderr);
                assert!(command.contains("# refused"), "{document}: {command}: {code:?} {said} {err}");
            }
        }
        assert!(!said.contains("\"reason\":\""), "{document}: {command}: {said:.200}");
        run += 1;
    }
    std::fs::remove_dir_all(folder).unwrap();
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_s_client_commands_work_when_pasted() {
    let run = paste("README.md").await;
    assert!(run > 8, "the check reads the README: {run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_client_commands_work_when_pasted() {
    for (document, least) in [("docs/clients.md", 5), ("docs/cli.md", 3), ("docs/api.md", 3)] {
        let run = paste(document).await;
        assert!(run >= least, "the check reads {document}: {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auth_is_turned_on_as_the_document_says() {
    let folder = folder("auth");
    let (port, admin) = (free_port(), free_port());
    let commands = commands_of("docs/security.md");
    let at = commands.iter().position(|c| c.ends_with("plexus up")).expect("it starts a gateway");
    for command in &commands[..at] {
        assert!(shell(command, &folder).status().await.unwrap().success(), "{command}");
    }
    let mut server = Command::new("bash");
    server.args(["-c", &format!("exec env {}", commands[at])]).current_dir(&folder).kill_on_drop(true);
    let terminal = shell("", &folder);
    server.envs(terminal.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    server.env("PLEXUS__GATEWAY__LISTEN", format!("127.0.0.1:{port}"));
    server.env("PLEXUS__ADMIN__LISTEN", format!("127.0.0.1:{admin}")).env("PLEXUS__LOG", "warn");
    let mut server = server.spawn().unwrap();
    let second = commands[at + 1..].join("\n").replace("localhost:8080", &format!("127.0.0.1:{port}"));
    eventually(PATIENCE, || async {
        let mut terminal = shell(&second, &folder);
        let output = terminal.env("PLEXUS_URL", format!("http://127.0.0.1:{port}")).output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let published = said.contains("\"level\":\"LOGGED\"");
        anyhow::ensure!(published && said.contains("NOT_ALLOWED"), "{said} {:?}", output.stderr);
        Ok(())
    })
    .await;
    server.kill().await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_errors_that_a_document_shows_are_those_that_come() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let (folder, text) = (folder("errors"), document("docs/errors.md"));
    let mut shown = text.lines().filter(|line| line.starts_with(['{', '←']));
    for command in commands_of("docs/errors.md") {
        let local = command.replace("localhost:8080", &up.address.to_string());
        let output = shell(&local, &folder).output().await.unwrap();
        let came: Value = serde_json::from_slice(&output.stdout).unwrap();
        let wanted: Value = serde_json::from_str(shown.next().unwrap()).unwrap();
        assert_eq!(came, wanted, "{command}");
    }
    let mut session = Session::open(up.address, None).await;
    session.say(json!({"id": 1, "call": "NodeService.ListNodes", "params": {"pageSize": -1}})).await;
    let Some(Ok(Message::Text(came))) = session.socket.next().await else { panic!("a frame") };
    let wanted = shown.next().and_then(|line| line.strip_prefix("← ")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&came).unwrap(), serde_json::from_str::<Value>(wanted).unwrap());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_says_what_the_document_shows() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let mut session = Session::open(up.address, None).await;
    let text = document("docs/websocket.md");
    let dialogue = text.split("```\n→ ").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let dialogue = format!("→ {dialogue}");
    let mut lines = 0;
    for line in dialogue.lines().filter(|line| !line.is_empty()) {
        lines += 1;
        let (way, frame) = line.split_once(' ').unwrap();
        let frame: Value = serde_json::from_str(frame).unwrap();
        if way == "→" {
            session.say(frame).await;
            continue;
        }
        let Some(Ok(Message::Text(came))) = session.socket.next().await else { panic!("{line}") };
        let came: Value = serde_json::from_str(&came).unwrap();
        assert!(has_shape(&came, &frame), "{came} is not like {frame}");
    }
    assert!(lines > 5, "the check reads the dialogue");
}

/// Whether everything that is shown is there; positions are others every time.
fn has_shape(came: &Value, shown: &Value) -> bool {
    match (came, shown) {
        (Value::Object(came), Value::Object(shown)) => {
            shown.iter().all(|(name, value)| came.get(name).is_some_and(|c| has_shape(c, value)))
        }
        (Value::String(came), Value::String(shown)) => {
            came == shown || (came.contains('-') && shown.contains('-'))
        }
        (came, shown) => came == shown,
    }
}

#[test]
fn every_command_of_a_document_is_run_by_a_test() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let documents = std::fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().file_name());
    let documents = documents.map(|name| format!("docs/{}", name.to_str().unwrap()));
    let documents: Vec<_> = documents.filter(|name| name.ends_with(".md")).collect();
    let pasted = [
        "README.md",
        "docs/clients.md",
        "docs/cli.md",
        "docs/security.md",
        "docs/api.md",
        "docs/errors.md",
        "docs/fleet.md",
    ];
    for document in documents.iter().map(String::as_str).chain(["README.md", "CONTRIBUTING.md"]) {
        for command in commands_of(document) {
            let elsewhere = ELSEWHERE.iter().any(|(begin, _)| command.starts_with(begin));
            let here = ["curl ", "plexus ", "export P", "head -c 32", "PLEXUS__WORKER__KEYS__FILE"];
            let here = here.into_iter().chain(["PLEXUS__GATEWAY__AUTH__MODE=on "]).collect::<Vec<_>>();
            let here = pasted.contains(&document) && here.iter().any(|begin| command.starts_with(begin));
            assert!(elsewhere || here, "{document}: nobody runs {command:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_operators_work_when_pasted() {
    let (redis, folder) = (Server::start(), folder("fleet"));
    let _workers =
        [Plexus::worker(&redis.url(), "worker-0").await, Plexus::worker(&redis.url(), "worker-1").await];
    let gateway = Plexus::gateway(&redis.url()).await;
    let run = async |command: &str| {
        let mut run = Command::new("bash");
        run.args(["-c", command]).current_dir(&folder).kill_on_drop(true);
        run.envs(
            shell(command, &folder).as_std().get_envs().filter_map(|(name, value)| Some((name, value?))),
        );
        let output = run.env("PLEXUS_URL", format!("http://{}", gateway.address)).output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    eventually(PATIENCE, || async {
        let said = run("plexus worker ls").await;
        if said.matches("READY").count() == 2 { Ok(()) } else { Err(said) }
    })
    .await;
    let commands = commands_of("docs/fleet.md");
    assert!(commands.len() >= 7, "the check reads the document");
    for command in &commands {
        run(command).await;
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_s_gateway_and_worker_apart_work_when_pasted() {
    let (redis, folder) = (Server::start(), folder("servers"));
    let (port, admins) = (free_port(), [free_port(), free_port()]);
    let mut servers: Vec<Child> = Vec::new();
    for command in commands().iter().filter(|c| c.contains("node.kek") || c.contains("--bus")) {
        let local = command
            .replace("redis://127.0.0.1:6379", &redis.url())
            .replace("[::]:8082", &format!("127.0.0.1:{}", admins[1]));
        let mut shell = shell(&local, &folder);
        if !command.contains("--bus") {
            assert!(shell.status().await.unwrap().success(), "{command}");
            continue;
        }
        let mut server = Command::new("bash");
        server.args(["-c", &format!("exec env {local}")]).current_dir(&folder).kill_on_drop(true);
        server.envs(shell.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
        server.env("PLEXUS__GATEWAY__LISTEN", format!("127.0.0.1:{port}"));
        server.env("PLEXUS__ADMIN__LISTEN", format!("127.0.0.1:{}", admins[0])).env("PLEXUS__LOG", "warn");
        servers.push(server.spawn().unwrap());
    }
    assert_eq!(servers.len(), 2, "the check reads the README");
    let publish = format!("curl -sS --fail-with-body -d hello 127.0.0.1:{port}/v1/topics/demo/messages");
    eventually(PATIENCE, || async {
        let output = shell(&publish, &folder).output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(said.contains("\"level\":\"LOGGED\""), "{said}");
        Ok(())
    })
    .await;
    for server in &mut servers {
        server.kill().await.unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}
