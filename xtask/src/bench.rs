//! `cargo xtask bench`: fastbuild beside the floor that the engine sets, and beside a script of `docker cp`.
//!
//! The floor is what no tool can go below: create, `PUT` of a tar made beforehand, start, wait, `GET` into nothing,
//! remove, over one connection pool and with no look at the host's files. The contenders take turns, so that a slow
//! minute of the machine meets them all, and each of them begins as often as the others. What counts is the ratio of
//! their medians in one run, with the command's own time (from the answer to start until it ended) taken off both sides;
//! the case of `true` shows it best, because a real command's time varies by more than what is compared.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bollard::{
    Docker, body_full,
    models::ContainerCreateBody,
    query_parameters::{
        DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::TryStreamExt;

use crate::{
    demo,
    engine::{self, Engine},
    images, memory,
    run::{self, found, note, root, say, scratch_dir},
    site,
};

#[derive(clap::Args)]
pub struct Options {
    /// How often each contender runs
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Files of the site, beside its frame of three
    #[arg(long, value_name = "N", default_value_t = 2000)]
    files: u32,
    /// Measure fastbuild's peak memory with a 3 GB file and with 100,000 files too
    #[arg(long)]
    memory: bool,
    /// Write the result into docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// What is built in a run.
struct Workload {
    title: &'static str,
    image: String,
    command: &'static [&'static str],
    /// Below the working directory; none: all of it comes back.
    output: Option<&'static str>,
}

impl Workload {
    fn container_output(&self) -> String {
        self.output.map_or_else(|| WORKDIR.to_owned(), |output| format!("{WORKDIR}/{output}"))
    }
}

const WORKDIR: &str = "/workspace";

/// The trees of one workload. fastbuild builds in a tree of its own, as users do: its products lie in it from the
/// second run on.
struct Trees {
    dir: tempfile::TempDir,
    tar: Bytes,
}

impl Trees {
    fn new(files: u32) -> Result<Trees> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(scratch_dir()?)?;
        let trees = Trees { dir, tar: Bytes::new() };
        site::jekyll(&trees.pristine(), files)?;
        site::jekyll(&trees.fastbuild(), files)?;
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_dir_all(WORKDIR.trim_start_matches('/'), trees.pristine())?;
        Ok(Trees { tar: tar.into_inner()?.into(), ..trees })
    }

    fn pristine(&self) -> PathBuf {
        self.dir.path().join("pristine")
    }

    fn fastbuild(&self) -> PathBuf {
        self.dir.path().join("fastbuild")
    }
}

/// `cargo xtask bench`.
pub async fn run(options: Options) -> Result<()> {
    let engine = engine::ensure().await?;
    say("images");
    let busybox = images::ensure(&engine, &images::TEST_BUSYBOX).await?;
    let jekyll = images::ensure(&engine, &images::DEMO_JEKYLL).await?;
    say("fastbuild itself, optimised");
    demo::build_fastbuild()?;

    let workloads = [
        Workload {
            title: "`true`, the whole tree comes back",
            image: busybox.clone(),
            command: &["true"],
            output: None,
        },
        Workload {
            title: "`jekyll build`, `_site` comes back",
            image: jekyll,
            command: &["jekyll", "build", "--quiet"],
            output: Some("_site"),
        },
    ];
    let mut page = heading(&engine, &options).await?;
    for workload in &workloads {
        page += &cold(&engine, workload, &options).await?;
    }
    if options.memory {
        page += &memory::measure(&engine, &busybox)?;
    }
    println!("{page}");
    if options.write {
        let path = root().join("docs/benchmarks.md");
        fs_err::create_dir_all(root().join("docs"))?;
        fs_err::write(&path, page)?;
        note(format_args!("written to {path:?}"));
    }
    Ok(())
}

async fn heading(engine: &Engine, options: &Options) -> Result<String> {
    let info = engine.docker.info().await?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = info.kernel_version.unwrap_or_default();
    let driver = info.driver.unwrap_or_default();
    let files = options.files + site::FRAME;
    Ok(format!(
        "# Benchmarks\n\n\
         Made by `cargo xtask bench`; run it to get the figures of your machine. Times are noisy, ratios within one run \
         are what counts.\n\n\
         Machine: {cores} cores, kernel {kernel}, {}, storage driver {driver}. Site: {files} files, {} MB. \
         Each contender ran {} times, in turn.\n",
        engine.version,
        files / 100,
        options.runs,
    ))
}

/// One cold run of the floor.
struct Floor {
    whole: Duration,
    command: Duration,
}

/// Everything measured for one workload, in seconds.
#[derive(Default)]
struct Samples {
    floor: Vec<f64>,
    command: Vec<f64>,
    fastbuild: Vec<f64>,
    docker_cp: Vec<f64>,
}

async fn cold(engine: &Engine, workload: &Workload, options: &Options) -> Result<String> {
    say(format_args!("cold: {}", workload.title));
    let trees = Trees::new(options.files)?;
    let with_cp = found("docker");
    if !with_cp {
        note("no docker client here: the docker cp script is left out");
    }
    // Once unmeasured: the image's files come into the page cache, and each contender is seen to work.
    round(engine, workload, &trees, with_cp, 0).await?;
    if let Some(output) = workload.output {
        let index = trees.fastbuild().join(output).join("index.html");
        ensure!(index.is_file(), "fastbuild ended well and brought no {index:?} back");
    }
    let mut samples = Samples::default();
    for n in 1..=options.runs {
        let Round { floor, fastbuild, docker_cp } = round(engine, workload, &trees, with_cp, n).await?;
        let shown =
            docker_cp.map(|took| format!(", docker cp {:.2} s", took.as_secs_f64())).unwrap_or_default();
        note(format_args!(
            "{n}: floor {:.2} s, fastbuild {:.2} s{shown}",
            floor.whole.as_secs_f64(),
            fastbuild.as_secs_f64()
        ));
        samples.floor.push(floor.whole.as_secs_f64());
        samples.command.push(floor.command.as_secs_f64());
        samples.fastbuild.push(fastbuild.as_secs_f64());
        samples.docker_cp.extend(docker_cp.map(|took| took.as_secs_f64()));
    }
    Ok(table(workload.title, &samples))
}

/// What one round measured.
struct Round {
    floor: Floor,
    fastbuild: Duration,
    docker_cp: Option<Duration>,
}

/// Runs each contender once. Who begins changes from round to round: each leaves dirty pages to the next.
async fn round(
    engine: &Engine,
    workload: &Workload,
    trees: &Trees,
    with_cp: bool,
    begin: u32,
) -> Result<Round> {
    let (mut measured, mut by_fastbuild, mut by_cp) = (None, None, None);
    for turn in begin..begin + 3 {
        match turn % 3 {
            0 => {
                measured =
                    Some(floor(&engine.docker, workload, trees.tar.clone()).await.context("the floor")?)
            }
            1 => by_fastbuild = Some(fastbuild(engine, workload, &trees.fastbuild()).context("fastbuild")?),
            _ if with_cp => by_cp = Some(docker_cp(engine, workload, trees).context("docker cp")?),
            _ => {}
        }
    }
    let (Some(floor), Some(fastbuild)) = (measured, by_fastbuild) else { bail!("a contender had no turn") };
    Ok(Round { floor, fastbuild, docker_cp: by_cp })
}

async fn floor(docker: &Docker, workload: &Workload, tar: Bytes) -> Result<Floor> {
    let begun = Instant::now();
    let body = ContainerCreateBody {
        image: Some(workload.image.clone()),
        cmd: Some(workload.command.iter().map(ToString::to_string).collect()),
        working_dir: Some(WORKDIR.to_owned()),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None, body).await?.id;
    let command = in_container(docker, &id, workload, tar).await;
    let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    docker.remove_container(&id, Some(force)).await?;
    Ok(Floor { command: command?, whole: begun.elapsed() })
}

/// From PUT to GET; the command's own time comes back.
async fn in_container(docker: &Docker, id: &str, workload: &Workload, tar: Bytes) -> Result<Duration> {
    let to = UploadToContainerOptionsBuilder::new().path("/").build();
    docker.upload_to_container(id, Some(to), body_full(tar)).await?;
    docker.start_container(id, None).await?;
    let started = Instant::now();
    let ended = docker.wait_container(id, None).try_collect::<Vec<_>>().await?;
    let command = started.elapsed();
    ensure!(ended.iter().all(|end| end.status_code == 0), "{:?} failed: {ended:?}", workload.command);
    let from = DownloadFromContainerOptionsBuilder::new().path(&workload.container_output()).build();
    docker.download_from_container(id, Some(from)).try_for_each(async |_| Ok(())).await?;
    Ok(command)
}

fn fastbuild(engine: &Engine, workload: &Workload, source: &Path) -> Result<Duration> {
    let mut command = Command::new(demo::fastbuild());
    command.arg("--source").arg(source).args(["--image", &workload.image, "--quiet"]);
    if let Some(output) = workload.output {
        command.args(["--output", output]);
    }
    command.arg("--").args(workload.command);
    timed(engine.point(&mut command)).map(|(took, _)| took)
}

/// What people write by hand today.
fn docker_cp(engine: &Engine, workload: &Workload, trees: &Trees) -> Result<Duration> {
    let out = tempfile::tempdir_in(trees.dir.path())?;
    let docker = |words: &[&str]| {
        let mut command = Command::new("docker");
        command.args(words);
        timed(engine.point(&mut command))
    };
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| anyhow!("{path:?} is not UTF-8"));
    let (source, target) = (text(&trees.pristine())? + "/.", text(out.path())?);

    let begun = Instant::now();
    let create = [&["create", "-w", WORKDIR, &workload.image], workload.command].concat();
    let id = docker(&create)?.1;
    let inside = docker(&["cp", &source, &format!("{id}:{WORKDIR}")])
        .and_then(|_| docker(&["start", "-a", &id]))
        .and_then(|_| docker(&["cp", &format!("{id}:{}", workload.container_output()), &target]));
    docker(&["rm", "-f", "-v", &id])?;
    inside?;
    Ok(begun.elapsed())
}

/// Wall time and what was printed, trimmed.
fn timed(command: &mut Command) -> Result<(Duration, String)> {
    let begun = Instant::now();
    let output = run::capture(command.stdout(Stdio::piped()))?;
    Ok((begun.elapsed(), String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

fn table(title: &str, samples: &Samples) -> String {
    let command = median(&samples.command);
    let above_floor = median(&samples.floor) - command;
    let mut page = format!(
        "\n## Cold: {title}\n\nThe command's own time: {command:.2} s. The floor is create + PUT + start + GET + remove.\n\n\
         | what | median s | min-max s | above the command, s | ratio to the floor |\n|---|---|---|---|---|\n"
    );
    for (what, seconds) in [
        ("floor", &samples.floor),
        ("fastbuild", &samples.fastbuild),
        ("`docker cp` script", &samples.docker_cp),
    ] {
        if seconds.is_empty() {
            continue;
        }
        let above = median(seconds) - command;
        let (least, most) = spread(seconds);
        let ratio = above / above_floor;
        writeln!(
            page,
            "| {what} | {:.2} | {least:.2}-{most:.2} | {above:.2} | {ratio:.2} |",
            median(seconds)
        )
        .unwrap_or_default();
    }
    page
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
        (None, _) => f64::NAN,
        (Some(middle), 1) => *middle,
        (Some(upper), _) => (upper + sorted[sorted.len() / 2 - 1]) / 2.0,
    }
}

fn spread(seconds: &[f64]) -> (f64, f64) {
    seconds.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &s| (least.min(s), most.max(s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_commands_own_time_counts_on_neither_side() {
        let samples =
            Samples { floor: vec![5.0], command: vec![4.0], fastbuild: vec![5.2], docker_cp: Vec::new() };
        let page = table("x", &samples);
        assert!(page.contains("| fastbuild | 5.20 | 5.20-5.20 | 1.20 | 1.20 |"), "{page}");
        assert!(!page.contains("docker cp"), "{page}");
    }
}
