//! Weaves the pure cores of worker, gateway and store into one crate: the files themselves, read at each
//! build, with `crate::` turned to the part that they come from, the planted bugs of `src/bugs.rs` behind
//! a switch that is off, and a few windows for the simulator to look through. Nothing of a core is
//! written here; a bug whose place is gone breaks the build, so that the list stays true.

#[allow(dead_code, reason = "the simulator reads the rest of it")]
#[path = "src/bugs.rs"]
mod bugs;

use bugs::{BUGS, Bug, Plant};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// What is taken of each crate: its folder, its name here, the files.
const PARTS: &[(&str, &str, &[&str])] = &[
    (
        "worker/src",
        "worker",
        &[
            "clock.rs",
            "config.rs",
            "error.rs",
            "host/lease.rs",
            "host/placement.rs",
            "host/event_loop/control.rs",
            "node/answers.rs",
            "node/calls.rs",
            "node/log/mod.rs",
            "node/log/errand.rs",
            "node/log/numbered.rs",
            "node/log/topic.rs",
            "node/log/window.rs",
            "node/log/writer.rs",
            "node/log/writer/answer.rs",
            "node/log/writer/ask.rs",
            "node/log/writer/reading.rs",
        ],
    ),
    (
        "gateway/src",
        "gateway",
        &[
            "config/router.rs",
            "frame.rs",
            "resume.rs",
            "router/beats.rs",
            "router/cursors.rs",
            "router/frames.rs",
            "router/interest.rs",
            "router/metrics.rs",
            "router/notes.rs",
            "router/pending.rs",
            "router/pending/failures.rs",
            "router/pending/line.rs",
            "router/place.rs",
            "router/queue.rs",
            "router/queue/pen.rs",
            "router/reader.rs",
            "router/subscriptions.rs",
            "router/topic.rs",
        ],
    ),
    ("bus/src/embedded", "bus", &["history.rs", "keys.rs", "ownership.rs", "tables.rs"]),
];

/// Windows: what the simulator reads of a core that nobody else needs.
const WINDOWS: &[(&str, &str)] = &[
    (
        "router/queue.rs",
        "impl Queue {
    /// Takes the next thing to say.
    pub(crate) fn take(&mut self) -> Option<Result<Delivery, Failure>> {
        let mut state = lock(&self.state);
        let next = state.pop()?;
        if state.hungry && state.rested() {
            state.hungry = false;
            self.notes.say(Note::Drained(self.id));
        }
        Some(next)
    }
}",
    ),
    (
        "tables.rs",
        "impl Tables {
    /// What a replica has, under another era.
    pub(super) fn replica(&self, era: Era) -> Self {
        Self {
            live: Subjects::new(0, Default::default()),
            control: self.control.clone(),
            names: Names::default(),
            slots: self.slots.clone(),
            erased: self.erased.clone(),
            era,
            strict: self.strict,
            most: self.most,
            now: self.now,
            wall: self.wall,
            paused: None,
            up: self.up.clone(),
        }
    }
}",
    ),
];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=src/bugs.rs");
    println!("cargo::rerun-if-changed=src/cores.rs.in");
    let mut planted = Vec::new();
    for (folder, part, files) in PARTS {
        for file in *files {
            let from = root.join(folder).join(file);
            println!("cargo::rerun-if-changed={}", from.display());
            let text = fs::read_to_string(&from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
            let text = text
                .replace("crate::", &format!("crate::{part}::"))
                .replace("rand::random", "crate::chance::random")
                // Their tests stay where they are.
                .replace("cfg(test)", "cfg(any())")
                .replace("cfg(any(test, feature = \"fuzzing\"))", "cfg(any())")
                // They are named by a path, which moves the folder of what is within.
                .replace("mod pen;", "#[path = \"queue/pen.rs\"]\nmod pen;")
                .replace("mod failures;", "#[path = \"pending/failures.rs\"]\nmod failures;")
                .replace("mod line;", "#[path = \"pending/line.rs\"]\nmod line;");
            let mut text = weave(text, &format!("{folder}/{file}"), &mut planted);
            for (_, window) in WINDOWS.iter().filter(|(of, _)| of == file) {
                write!(text, "\n{window}\n").expect("text grows");
            }
            let to = out.join(part).join(file);
            fs::create_dir_all(to.parent().expect("it is in a folder")).expect("the folder can be made");
            fs::write(to, text).expect("the file can be written");
        }
    }
    for bug in BUGS {
        let all = bug.plants.iter().all(|plant| planted.contains(&(bug.name, plant.file)));
        assert!(all, "the place of bug {:?} is not among the cores", bug.name);
    }
    let cores = fs::read_to_string("src/cores.rs.in").expect("the tree of modules is there");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let cores = cores
        .replace("OUT/", &format!("{}/", out.display()))
        .replace("SRC/", &format!("{}/", here.display()));
    fs::write(out.join("cores.rs"), cores).expect("the file can be written");
}

/// Puts every bug of this file beside what it replaces.
fn weave<'a>(mut text: String, file: &str, planted: &mut Vec<(&'a str, &'a str)>) -> String {
    for Bug { number, name, plants, .. } in BUGS {
        for Plant { file: of, good, bad } in plants.iter().filter(|plant| plant.file == file) {
            let found = text.matches(good).count();
            assert!(found == 1, "bug {name:?}: {good:?} is {found} times in {file}");
            let on = format!("crate::switch::on({number})");
            let new = if bad.contains("ON") {
                bad.replace("ON", &on)
            } else if good.ends_with(';') {
                format!("if {on} {{ {bad} }}\n{good}")
            } else {
                format!("(if {on} {{ {bad} }} else {{ {good} }})")
            };
            text = text.replacen(good, &new, 1);
            planted.push((name, of));
        }
    }
    text
}
