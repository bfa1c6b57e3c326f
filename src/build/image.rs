//! The image of a plan on its engine: found there, or pulled.

use super::BuildError;
use crate::{
    build::tasks::Running,
    engine::{Docker, EngineError, ImageFacts},
    entry::Amount,
    plan::Plan,
    report::{
        Reporter,
        events::{Event, Phase},
    },
    spec::PullPolicy,
};

/// Finds the image on the engine, or makes the engine pull it.
pub(super) async fn ensure(
    docker: &Docker,
    reference: &str,
    plan: &Plan,
    reporter: &Reporter,
) -> Result<ImageFacts, BuildError> {
    let platform = plan.platform.as_ref().map(|platform| platform.value.as_str());
    let policy = plan.pull.value;
    if policy != PullPolicy::Always
        && let Some(facts) = docker.image(reference, platform).await?
    {
        return Ok(facts);
    }
    if policy == PullPolicy::Never {
        return Err(BuildError::ImageMissing { image: reference.to_owned() });
    }
    let phase = Running::begin(Phase::Pull, None, reporter);
    docker
        .pull(reference, platform, |progress| {
            reporter.emit(Event::PullProgress {
                layer: progress.layer,
                status: progress.status,
                current: progress.current,
                total: progress.total,
            });
        })
        .await?;
    phase.end(Amount::default());
    let facts = docker.image(reference, platform).await?;
    facts.ok_or_else(|| not_as_pulled(reference.to_owned(), platform).into())
}

/// Why a successful pull did not bring the image. An engine that has an image for one platform only
/// checks its name, and takes it for any platform.
fn not_as_pulled(reference: String, platform: Option<&str>) -> EngineError {
    match platform {
        Some(platform) => EngineError::NoSuchPlatform {
            reference,
            message: format!("what the registry has is not for {platform}"),
        },
        None => EngineError::ImageNotFound {
            reference,
            message: "it was pulled, and has been removed since".to_owned(),
        },
    }
}
