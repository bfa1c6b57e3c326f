//! What people reach for instead of fastbuild. All of them start from one tree, which gets one edit in each round, and all
//! bring back what fastbuild would.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bollard::{
    Docker, body_full,
    models::ContainerCreateBody,
    query_parameters::{
        DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{
    contender::{Contender, What},
    ours::{tar_in, tar_out},
    stage::{Container, Stage, WORKDIR},
};

use std::path::{Path, PathBuf};

/// `docker cp` in, the command, `docker cp` out: what people write by hand first.
pub fn docker_cp<'a>(stage: &'a Stage, tree: &'a Path, container: &'a Container) -> Contender<'a> {
    by_copy(stage, What::DockerCp, tree, container, move |out| {
        let (id, source) = (&container.id, tree.join("."));
        stage.docker(["cp".as_ref(), source.as_os_str(), format!("{id}:{WORKDIR}").as_ref()])?;
        stage.exec(id)?;
        let back = format!("{id}:{}/.", stage.container_output());
        stage.docker(["cp".as_ref(), back.as_ref(), out.as_os_str()]).map(drop)
    })
}

/// `tar` over `docker exec`, both ways.
pub fn tar<'a>(stage: &'a Stage, tree: &'a Path, container: &'a Container) -> Contender<'a> {
    by_copy(stage, What::Tar, tree, container, move |out| {
        tar_in(stage, tree, &container.id)?;
        stage.exec(&container.id)?;
        tar_out(stage, &container.id, &stage.container_output(), out)
    })
}

/// A script that brings everything back into a directory that is empty before.
fn by_copy<'a>(
    stage: &'a Stage,
    what: What,
    tree: &'a Path,
    container: &'a Container,
    script: impl Fn(&Path) -> Result<()> + 'a,
) -> Contender<'a> {
    let name = format!("out-{}", container.id);
    let fresh = name.clone();
    Contender::new(what, move |_| script(&stage.path(&name)))
        .prepared(move |_| stage.empty(&fresh).map(drop))
        .verified(move |round| stage.built(tree, &stage.path(&format!("out-{}", container.id)), round))
}

/// `rsync` over `docker exec`, both ways. It compares sizes and times, not contents.
pub fn rsync<'a>(stage: &'a Stage, tree: &'a Path, container: &'a Container) -> Result<Contender<'a>> {
    let out = stage.empty("out-rsync")?;
    let seen = out.clone();
    let rsync = move |from: &std::ffi::OsStr, to: &std::ffi::OsStr| {
        let mut rsync = Command::new("rsync");
        rsync.args(["-a", "--delete", "-e", "docker exec -i"]);
        if let Some(output) = stage.workload.output {
            rsync.arg(format!("--exclude=/{output}")).arg("--exclude=/.jekyll-cache");
        }
        stage.meter.run(rsync.arg(from).arg(to)).map(drop)
    };
    Ok(Contender::new(What::Rsync, move |_| {
        let id = &container.id;
        rsync(tree.join("").as_os_str(), format!("{id}:{WORKDIR}/").as_ref())?;
        stage.exec(id)?;
        rsync(format!("{id}:{}/", stage.container_output()).as_ref(), out.join("").as_os_str())
    })
    .verified(move |round| stage.built(tree, &seen, round)))
}

/// The bind mount, which is the usual first choice, here on a local file system: a container that is there, and one for
/// each build. The products lie in the tree, so it is one of their own.
pub fn mounted<'a>(stage: &'a Stage, tree: &'a Path, container: &'a Container) -> Vec<Contender<'a>> {
    let edited = move |round| stage.edit(tree, round);
    let seen = move |round| {
        let out = stage.workload.output.map_or_else(|| tree.to_owned(), |output| tree.join(output));
        stage.built(tree, &out, round)
    };
    let exec = Contender::new(What::MountExec, move |_| stage.exec(&container.id));
    let run = Contender::new(What::MountRun, move |_| {
        let mount = mount_of(tree);
        let run = ["run", "--rm", "-w", WORKDIR, "-v", &mount, &stage.image];
        stage.docker(run.iter().chain(stage.workload.command)).map(drop)
    });
    vec![exec.prepared(edited).verified(seen), run.prepared(edited).verified(seen)]
}

/// The tree as `docker run -v` takes it.
pub fn mount_of(tree: &Path) -> String {
    format!("{}:{WORKDIR}", tree.to_string_lossy())
}

/// `docker build` with BuildKit: sources by `COPY`, products by `--output`.
///
/// # Errors
/// When the Dockerfile cannot be written.
pub fn buildkit<'a>(stage: &'a Stage, tree: &'a Path, client: &'a Path) -> Result<Contender<'a>> {
    let dockerfile = stage.path("Dockerfile");
    fs_err::write(
        &dockerfile,
        format!(
            "FROM {} AS build\nWORKDIR {WORKDIR}\nCOPY . .\nRUN {}\nFROM scratch\nCOPY --from=build {} /\n",
            stage.image,
            serde_json::to_string(stage.workload.command)?,
            stage.container_output(),
        ),
    )?;
    let seen = stage.path("out-buildkit");
    let out = seen.clone();
    Ok(Contender::new(What::BuildKit, move |_| {
        stage.meter.run(build(client, &dockerfile, &out).arg(tree)).map(drop)
    })
    .verified(move |round| stage.built(tree, &seen, round)))
}

fn build(client: &Path, dockerfile: &Path, out: &Path) -> Command {
    let mut build = Command::new(client);
    build.env("DOCKER_BUILDKIT", "1").args(["build", "--quiet", "--output"]);
    build.arg(format!("type=local,dest={}", out.to_string_lossy())).arg("--file").arg(dockerfile);
    build
}

/// The first docker client in `PATH` that builds with BuildKit: newer ones need a plugin for it.
pub fn buildkit_client(stage: &Stage) -> Result<Option<PathBuf>> {
    let probe = stage.empty("probe")?;
    let dockerfile = probe.join("Dockerfile");
    fs_err::write(&dockerfile, "FROM scratch\nCOPY Dockerfile /\n")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut clients =
        std::env::split_paths(&path).map(|dir| dir.join("docker")).filter(|path| path.is_file());
    Ok(clients.find(|client| {
        let out = probe.join("out");
        stage.meter.run(build(client, &dockerfile, &out).arg(&probe)).is_ok()
            && out.join("Dockerfile").is_file()
    }))
}

/// Create, `PUT` of a tar that is ready, start, wait, `GET` into nothing, remove; over one connection pool and without a
/// look at this machine's files.
pub fn floor<'a>(stage: &'a Stage, docker: &'a Docker, tree: &Path) -> Result<Contender<'a>> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(WORKDIR.trim_start_matches('/'), tree)?;
    let tar = Bytes::from(tar.into_inner()?);
    let runtime = tokio::runtime::Handle::current();
    Ok(Contender::new(What::Floor, move |_| runtime.block_on(one_run_by_api(stage, docker, tar.clone()))))
}

async fn one_run_by_api(stage: &Stage, docker: &Docker, tar: Bytes) -> Result<()> {
    let body = ContainerCreateBody {
        image: Some(stage.image.clone()),
        cmd: Some(stage.workload.command.iter().map(ToString::to_string).collect()),
        working_dir: Some(WORKDIR.to_owned()),
        labels: Some([stage.label()].into()),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None, body).await?.id;
    let done = in_container(stage, docker, &id, tar).await;
    let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    docker.remove_container(&id, Some(force)).await.context("could not remove the floor's container")?;
    done
}

async fn in_container(stage: &Stage, docker: &Docker, id: &str, tar: Bytes) -> Result<()> {
    let to = UploadToContainerOptionsBuilder::new().path("/").build();
    docker.upload_to_container(id, Some(to), body_full(tar)).await?;
    docker.start_container(id, None).await?;
    let ended = docker.wait_container(id, None).try_collect::<Vec<_>>().await?;
    ensure!(ended.iter().all(|end| end.status_code == 0), "{:?} failed: {ended:?}", stage.workload.command);
    let from = DownloadFromContainerOptionsBuilder::new().path(&stage.container_output()).build();
    docker.download_from_container(id, Some(from)).try_for_each(async |_| Ok(())).await?;
    Ok(())
}
