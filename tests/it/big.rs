//! Rule 10: memory does not grow with the size of files. And rule 3 for large files: what looks unchanged is not
//! believed to be.

use crate::common::Project;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::MetadataExt as _,
    process::Child,
};

/// What fastbuild may use at most, in kB.
const LIMIT: u64 = 100_000;

/// A file of so many MiB of which no two blocks are alike.
fn write_large(project: &Project, name: &str, mebibytes: u64) {
    let mut file = fs::File::create(project.path(name)).unwrap();
    let mut block = vec![0_u8; 1 << 20];
    let mut state = 1_u64;
    for _ in 0..mebibytes {
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
}

/// Runs to the end; gives the result and the most memory that was used, in kB, as it was at the last event.
fn watched(mut child: Child) -> (i32, String, u64) {
    let stderr = child.stderr.take().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut said, mut peak) = (String::new(), 0);
    for line in BufReader::new(stderr).lines() {
        said.push_str(&line.unwrap());
        said.push('\n');
        let now = fs::read_to_string(&status).unwrap_or_default();
        let high = now.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let high = high.and_then(|high| high.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(high.unwrap_or(0));
    }
    (child.wait().unwrap().code().unwrap(), said, peak)
}

#[test]
fn memory_does_not_grow_with_a_large_file_that_goes_and_comes_back() {
    let project = Project::new();
    write_large(&project, "large", 600);
    let before = fs::metadata(project.path("large")).unwrap();
    let child = project.start(&["--progress", "json"], "echo made >made");
    let (code, said, peak) = watched(child);
    assert_eq!(code, 0, "{said}");
    assert!(said.lines().count() > 10 && said.contains("\"finished\""), "{said}");
    assert!(peak > 1_000, "nothing was measured");
    assert!(peak < LIMIT, "{peak} kB at the peak");
    // Rule 4: what did not change is not touched.
    let after = fs::metadata(project.path("large")).unwrap();
    assert_eq!(
        (before.ino(), before.ctime(), before.ctime_nsec()),
        (after.ino(), after.ctime(), after.ctime_nsec())
    );
    assert_eq!(project.read("made"), "made\n");
    project.assert_nothing_left();
}

#[test]
fn memory_does_not_grow_with_a_large_product() {
    let project = Project::new();
    let child =
        project.start(&["--progress", "json", "-o", "large"], "dd if=/dev/urandom of=large bs=1M count=300");
    let (code, said, peak) = watched(child);
    assert_eq!(code, 0, "{said}");
    assert!(peak > 1_000 && peak < LIMIT, "{peak} kB at the peak");
    assert_eq!(fs::metadata(project.path("large")).unwrap().len(), 300 << 20);
    project.assert_nothing_left();
}

#[test]
fn memory_grows_only_slightly_with_the_number_of_files_that_go_and_products_that_come() {
    const FILES: usize = 100_000;
    let project = Project::new();
    fs::create_dir(project.path("many")).unwrap();
    for file in 0..FILES {
        fs::write(project.path(format!("many/{file:06}")), "x").unwrap();
    }
    let child = project.start(&["--progress", "json", "-o", "out"], "mv many out");
    let (code, said, peak) = watched(child);
    assert_eq!(code, 0, "{said}");
    // An unoptimised program's own pages, and what allocators keep for each thread, differ by some 10 MB from run to run.
    assert!(peak > 1_000 && peak < LIMIT * 5 / 4, "{peak} kB at the peak");
    assert_eq!(fs::read_dir(project.path("out")).unwrap().count(), FILES);
    project.assert_nothing_left();
}

/// Runs a build; gives how many products came back.
fn came(project: &Project, script: &str) -> u64 {
    let ended = project.sh(&["--progress", "json"], script);
    let said = ended.exits(0).err();
    let finished = said.lines().rev().find(|line| line.contains("\"finished\"")).unwrap();
    let finished: serde_json::Value = serde_json::from_str(finished).unwrap();
    project.assert_nothing_left();
    finished["applied"]["written"].as_u64().unwrap()
}

/// Changes a byte in the middle, and puts size and mtime back.
const SLY: &str = "touch -r $f /tmp/when; printf X | dd of=$f bs=1 seek=500000 conv=notrunc 2>/dev/null; \
                   touch -r /tmp/when $f";

#[test]
fn a_large_change_that_keeps_size_and_mtime_is_noticed() {
    let project = Project::new();
    for name in ["one", "two", "three"] {
        project.write(name, vec![b'.'; 1_000_000]);
        // Before the build's clock, and so that no whole second is lost on the way.
        fs::File::options()
            .write(true)
            .open(project.path(name))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000))
            .unwrap();
    }
    assert_eq!(came(&project, "true"), 0);
    assert_eq!(came(&project, &format!("f=two; {SLY}")), 1);
    let content = fs::read(project.path("two")).unwrap();
    assert_eq!((content.len(), content[500_000]), (1_000_000, b'X'));
    assert_eq!(fs::metadata(project.path("two")).unwrap().mtime(), 1_600_000_000);
    for name in ["one", "three"] {
        assert_eq!(fs::read(project.path(name)).unwrap(), vec![b'.'; 1_000_000], "{name}");
    }
    assert_eq!(came(&project, &format!("for f in one three; do {SLY}; done")), 2);
    assert_eq!(fs::read(project.path("one")).unwrap()[500_000], b'X');
}

#[test]
fn a_hundred_thousand_files_in_one_directory_go_in_and_their_products_come_back() {
    const FILES: usize = 100_000;
    let project = Project::new();
    fs::create_dir(project.path("many")).unwrap();
    for file in 0..FILES {
        fs::write(project.path(format!("many/{file}")), "x").unwrap();
    }
    let ended = project.sh(&["-q"], "ls many | wc -l; echo new > many/new; rm many/7; echo y > many/8");
    assert_eq!(ended.exits(0).out().trim(), FILES.to_string());
    assert_eq!(fs::read_dir(project.path("many")).unwrap().count(), FILES);
    assert_eq!((project.read("many/new"), project.read("many/8")), ("new\n".into(), "y\n".into()));
    assert!(!project.has("many/7"));
    project.assert_nothing_left();
}
