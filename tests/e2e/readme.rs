//! The README's commands work when pasted, in the order in which they stand.

use plexus_tests::{
    eventually,
    process::{Plexus, binary},
    redis::{Server, free_port},
};
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::process::{Child, Command};

/// Seconds after which a command that follows something is ended.
const FOLLOW: &str = "4";
const PATIENCE: Duration = Duration::from_secs(30);

/// The commands of all blocks that show a console, continued lines joined.
fn commands() -> Vec<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let joined = blocks.map(|block| block.replace("\\\n", " ")).collect::<String>();
    joined.lines().filter_map(|line| line.strip_prefix("$ ").map(ToOwned::to_owned)).collect()
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

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_s_client_commands_work_when_pasted() {
    let up = Plexus::start("up", "memory:", &[]).await;
    let (folder, mut run) = (folder("clients"), 0);
    // A placeholder cannot be pasted, and servers have a test of their own.
    let client = |c: &&String| (c.starts_with("curl ") || c.starts_with("plexus ")) && !c.contains(['…']);
    for command in commands().iter().filter(client).filter(|c| !c.contains("--bus")) {
        let local = command.replace("localhost:8080", &up.address.to_string());
        let mut shell = shell(&local, &folder);
        shell.env("PLEXUS_URL", format!("http://{}", up.address));
        shell.env("PLEXUS__ADMIN__LISTEN", up.admin.to_string());
        let output = shell.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => {}
            Some(124) => assert!(!said.is_empty(), "{command} follows and says nothing"),
            code => assert!(command.contains("# refused"), "{command}: {code:?} {said} {:?}", output.stderr),
        }
        assert!(!said.contains("\"reason\""), "{command}: {said}");
        run += 1;
    }
    assert!(run > 8, "the check reads the README: {run}");
    std::fs::remove_dir_all(folder).unwrap();
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
