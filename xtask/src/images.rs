//! The images of the demo, the examples and the tests, made here and pushed nowhere.
//!
//! An image's tag is a hash of its recipe, and the engine sets a tag only on an image that is complete: what has its
//! tag is there, whole and current, and nothing needs to be remembered on this side. `:latest` is moved last, so that
//! it never names less. What tests need to know lies in `target/xtask/images.json`, an object from each image's
//! name (`test-busybox`) to its reference (`fastbuild/test-busybox:3f…`); `fastbuild/NAME:latest` is the same image.
//!
//! | image | from |
//! |---|---|
//! | `demo-jekyll`, `demo-c` | their Dockerfile where a registry answers, else Debian's packages by `mmdebstrap` |
//! | `test-tools` | the same, with the sources of a C project |
//! | `test-…` | one static busybox, see [`crate::busybox`] |

use std::{collections::BTreeMap, io::Read, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use bollard::{
    Docker,
    query_parameters::{BuildImageOptionsBuilder, CreateImageOptionsBuilder, TagImageOptionsBuilder},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::{
    busybox, debian,
    engine::{self, Engine},
    run::{self, note, root, say, scratch_dir},
};

/// Goes into every hash. Raise it when the code that makes images changes what it makes.
const RECIPES: &str = "1";
const REGISTRY_PROBE: Duration = Duration::from_secs(10);

/// The example site's image: Jekyll.
pub const DEMO_JEKYLL: Image = Image {
    name: "demo-jekyll",
    contents: Contents::Packages {
        dockerfile: "examples/jekyll-site/Dockerfile",
        base: "ruby:3.3-slim-bookworm",
        packages: &["jekyll"],
        source: None,
    },
    config: &[
        "ENV LANG=C.UTF-8",
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "WORKDIR /workspace",
    ],
};

/// The C example's image: a compiler and make.
pub const DEMO_C: Image = Image {
    name: "demo-c",
    contents: Contents::Packages {
        dockerfile: "examples/makefile/Dockerfile",
        base: "debian:bookworm-slim",
        packages: &["gcc", "libc6-dev", "make"],
        source: None,
    },
    config: &[
        "ENV LANG=C.UTF-8",
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "WORKDIR /workspace",
    ],
};

/// The tests' real builds: a Rust crate, an npm project with a bundler, and Lua's own sources in `/usr/src/lua`.
const TEST_TOOLS: Image = Image {
    name: "test-tools",
    contents: Contents::Packages {
        dockerfile: "xtask/images/test-tools.Dockerfile",
        base: "debian:bookworm-slim",
        packages: &["cargo", "esbuild", "gcc", "git", "libc6-dev", "make", "npm", "rustc"],
        source: Some(Source { package: "lua5.4", dir: "/usr/src/lua" }),
    },
    config: &[
        "ENV LANG=C.UTF-8",
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "WORKDIR /workspace",
    ],
};

/// The bench's image: Jekyll and rsync. Only `bench` makes it.
pub const BENCH: Image = Image {
    name: "bench",
    contents: Contents::Packages {
        dockerfile: "xtask/bench.Dockerfile",
        base: "ruby:3.3-slim-bookworm",
        packages: &["jekyll", "rsync"],
        source: None,
    },
    config: DEMO_JEKYLL.config,
};

/// An ordinary small image, root.
pub const TEST_BUSYBOX: Image = Image {
    name: "test-busybox",
    contents: Contents::Busybox(busybox::Layout::Shell),
    config: &[r#"CMD ["sh"]"#],
};

const ALL: [Image; 8] = [
    DEMO_JEKYLL,
    DEMO_C,
    TEST_TOOLS,
    TEST_BUSYBOX,
    Image {
        name: "test-nonroot",
        contents: Contents::Busybox(busybox::Layout::Shell),
        config: &["USER app", r#"CMD ["sh"]"#],
    },
    Image {
        name: "test-entrypoint",
        contents: Contents::Busybox(busybox::Layout::EntryPoint),
        config: &[r#"ENTRYPOINT ["/entrypoint.sh"]"#, r#"CMD ["echo", "the image's own command"]"#],
    },
    Image {
        name: "test-workdir",
        contents: Contents::Busybox(busybox::Layout::FilledWorkspace),
        config: &["ENV FROM_IMAGE=yes", "WORKDIR /elsewhere", "VOLUME /volume", r#"CMD ["sh"]"#],
    },
    Image {
        name: "test-empty",
        contents: Contents::Busybox(busybox::Layout::OneProgram),
        config: &[r#"CMD ["/busybox"]"#],
    },
];

/// An image's recipe.
pub struct Image {
    name: &'static str,
    contents: Contents,
    /// Dockerfile instructions that an import applies.
    config: &'static [&'static str],
}

enum Contents {
    /// Public software: a Dockerfile with its base image, or the same from Debian packages.
    Packages {
        dockerfile: &'static str,
        base: &'static str,
        packages: &'static [&'static str],
        source: Option<Source>,
    },
    /// A hand-made tree around busybox.
    Busybox(busybox::Layout),
}

/// A source package of Debian's, whose original archive lies unpacked in the image.
#[derive(Clone, Copy)]
struct Source {
    package: &'static str,
    /// An absolute path in the image.
    dir: &'static str,
}

impl Image {
    /// The name that moves with the recipe: `fastbuild/NAME:latest`.
    pub fn latest(&self) -> String {
        format!("fastbuild/{}:latest", self.name)
    }

    fn tag(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        };
        add(RECIPES.as_bytes());
        self.config.iter().for_each(|line| add(line.as_bytes()));
        match &self.contents {
            Contents::Packages { dockerfile, base, packages, source } => {
                add(&fs_err::read(root().join(dockerfile))?);
                add(base.as_bytes());
                packages.iter().for_each(|package| add(package.as_bytes()));
                source
                    .iter()
                    .flat_map(|source| [source.package, source.dir])
                    .for_each(|part| add(part.as_bytes()));
            }
            Contents::Busybox(layout) => add(&layout.tar(b"")?),
        }
        let digest = hash.finalize();
        Ok(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// `cargo xtask images`.
pub async fn run() -> Result<()> {
    let engine = engine::ensure().await?;
    ensure_all(&engine).await
}

/// Makes sure that every image is there, and writes `images.json`.
pub async fn ensure_all(engine: &Engine) -> Result<()> {
    say("images");
    let mut made = BTreeMap::new();
    for image in &ALL {
        made.insert(image.name, ensure(engine, image).await?);
    }
    let list = scratch_dir()?.join("images.json");
    run::write_whole(&list, &serde_json::to_vec_pretty(&made)?)?;
    note(format_args!("listed in {list:?}"));
    Ok(())
}

/// Makes sure that one image is there; its reference with the hash comes back.
pub async fn ensure(engine: &Engine, image: &Image) -> Result<String> {
    let docker = &engine.docker;
    let _turn = turn()?;
    let repo = format!("fastbuild/{}", image.name);
    let hash = image.tag()?;
    let reference = format!("{repo}:{hash}");
    let id = match docker.inspect_image(&reference).await {
        Ok(_) => {
            note(format_args!("{reference} is there"));
            reference.clone()
        }
        Err(error) if is_not_found(&error) => {
            note(format_args!("{reference} has to be made"));
            make(docker, image).await.with_context(|| format!("could not make the image {reference}"))?
        }
        Err(error) => return Err(error).with_context(|| format!("could not ask for the image {reference}")),
    };
    for tag in [hash.as_str(), "latest"] {
        let name = TagImageOptionsBuilder::new().repo(&repo).tag(tag).build();
        docker
            .tag_image(&id, Some(name))
            .await
            .with_context(|| format!("could not tag {id} as {repo}:{tag}"))?;
    }
    Ok(reference)
}

/// One maker at a time: two would each build the same image, and nothing worse. The lock ends with the process.
fn turn() -> Result<std::fs::File> {
    let file = fs_err::File::create(scratch_dir()?.join("images.lock"))?.into_file();
    if file.try_lock().is_err() {
        note("waiting for another xtask that makes images");
        file.lock()?;
    }
    Ok(file)
}

fn is_not_found(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
}

/// Makes an image without a name; its id comes back.
async fn make(docker: &Docker, image: &Image) -> Result<String> {
    match &image.contents {
        Contents::Busybox(layout) => {
            let program = busybox::program(docker).await?;
            import(docker, image, futures_util::stream::iter([Ok(layout.tar(&program)?.into())])).await
        }
        Contents::Packages { dockerfile, base, packages, source } => {
            if registry_answers(docker, base).await {
                return build(docker, dockerfile).await;
            }
            let Some(release) = debian::installable() else {
                bail!(
                    "no registry answers for {base}, and building from Debian's packages needs root on Debian or \
                     Ubuntu. Check the network, or make an image with {} yourself and name it {}",
                    packages.join(", "),
                    image.latest(),
                );
            };
            let tree = debootstrap(&release, packages, *source)?;
            let file = fs_err::File::open(&tree)?;
            import(docker, image, chunks(file)).await
        }
    }
}

/// Asks by way of the engine, because it is the engine that would pull.
async fn registry_answers(docker: &Docker, base: &str) -> bool {
    note(format_args!("asking the registry for {base}"));
    match timeout(REGISTRY_PROBE, docker.inspect_registry_image(base, None)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            note(format_args!("no: {error}"));
            false
        }
        Err(_) => {
            note(format_args!("no answer within {} s", REGISTRY_PROBE.as_secs()));
            false
        }
    }
}

/// A root file system as a tar in a temporary file: complete, or an error. The name is always the same, so that what a
/// killed run left is overwritten; the caller holds the [`turn`].
fn debootstrap(
    release: &debian::Release,
    packages: &[&str],
    source: Option<Source>,
) -> Result<tempfile::TempPath> {
    debian::ensure_program("mmdebstrap", "mmdebstrap")?;
    let tree = tempfile::TempPath::try_from_path(scratch_dir()?.join("root.tar"))?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--format=tar", "--quiet"]);
    command.arg(format!("--include={}", packages.join(",")));
    if release.id == "ubuntu" {
        command.arg("--components=main,universe");
    }
    for unread in ["doc", "info", "locale", "man", "lintian"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{unread}/*"));
    }
    command.args(source.map(|source| format!("--customize-hook={}", unpack(source))));
    command.arg(&release.codename).arg(&tree);
    note(format_args!("mmdebstrap {} with {} (about a minute)", release.codename, packages.join(", ")));
    run::capture(&mut command)?;
    Ok(tree)
}

/// A hook of mmdebstrap's, whose `$1` is the root: fetches the package by the very sources of the root's apt, and leaves no
/// trace but the unpacked archive.
fn unpack(Source { package, dir }: Source) -> String {
    let inside = format!(
        "sed -n 's/^deb /deb-src /p' /etc/apt/sources.list > /etc/apt/sources.list.d/source.list && apt-get update -q && \
         cd /tmp && apt-get source -q --download-only {package} && mkdir -p {dir} && \
         tar -C {dir} --strip-components=1 -xf {package}_*.orig.tar.* && rm -rf {package}_* /etc/apt/sources.list.d/source.list"
    );
    // Single quotes within single quotes, as a shell has them.
    format!("chroot \"$1\" sh -ec '{}'", inside.replace('\'', r"'\''"))
}

fn chunks(
    mut file: fs_err::File,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    futures_util::stream::iter(std::iter::from_fn(move || {
        let mut chunk = vec![0; 256 * 1024];
        match file.read(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(chunk.into()))
            }
            Err(error) => Some(Err(error)),
        }
    }))
}

async fn import(
    docker: &Docker,
    image: &Image,
    tar: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Result<String> {
    let config = image.config.iter().map(ToString::to_string).collect();
    let options = CreateImageOptionsBuilder::new().from_src("-").changes(config).build();
    let mut answer = docker.create_image(Some(options), Some(bollard::body_try_stream(tar)), None);
    let mut last = None;
    while let Some(message) = answer.next().await {
        last = message.context("the engine refused the import")?.status.or(last);
    }
    last.filter(|status| status.starts_with("sha256:"))
        .ok_or_else(|| anyhow!("the engine's answer to the import names no image"))
}

async fn build(docker: &Docker, dockerfile: &str) -> Result<String> {
    note(format_args!("docker build of {dockerfile} (a minute or two)"));
    let context = dockerfile_alone(&root().join(dockerfile))?;
    let options = BuildImageOptionsBuilder::new().dockerfile("Dockerfile").rm(true).forcerm(true).build();
    let (mut said, mut id) = (Vec::new(), None);
    let mut answer = docker.build_image(options, None, Some(bollard::body_full(context.into())));
    while let Some(message) = answer.try_next().await.with_context(|| evidence(&said))? {
        said.extend_from_slice(message.stream.unwrap_or_default().as_bytes());
        if let Some(error) = message.error_detail.and_then(|detail| detail.message) {
            bail!("{error}\n{}", evidence(&said));
        }
        id = message.aux.and_then(|aux| aux.id).or(id);
    }
    id.ok_or_else(|| anyhow!("the engine's answer to the build names no image; {}", evidence(&said)))
}

fn evidence(said: &[u8]) -> String {
    format!("the build's last lines:\n{}", run::last_lines(said, 15))
}

/// The recipes copy nothing in, so their context is the file itself.
fn dockerfile_alone(path: &Path) -> Result<Vec<u8>> {
    let recipe = fs_err::read(path)?;
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(recipe.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "Dockerfile", recipe.as_slice())?;
    Ok(tar.into_inner()?)
}
