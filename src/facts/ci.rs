//! Detects the CI service from the environment.

use serde::Serialize;

use crate::environment::Environment;

/// A CI service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ci {
    /// GitHub Actions; also Gitea and Forgejo, which are compatible.
    GithubActions,
    /// GitLab CI.
    Gitlab,
    /// Jenkins.
    Jenkins,
    /// Azure Pipelines.
    AzurePipelines,
    /// CircleCI.
    CircleCi,
    /// Travis CI.
    Travis,
    /// Buildkite.
    Buildkite,
    /// Bitbucket Pipelines.
    Bitbucket,
    /// TeamCity.
    TeamCity,
    /// Drone, and its fork Woodpecker.
    Drone,
    /// AppVeyor.
    AppVeyor,
    /// AWS CodeBuild.
    CodeBuild,
    /// None of these, but `CI` is set.
    Other,
}

/// The variable that identifies each service. GitHub's comes last: others set it for compatibility.
const MARKS: [(&str, Ci); 13] = [
    ("GITLAB_CI", Ci::Gitlab),
    ("JENKINS_URL", Ci::Jenkins),
    ("TF_BUILD", Ci::AzurePipelines),
    ("CIRCLECI", Ci::CircleCi),
    ("TRAVIS", Ci::Travis),
    ("BUILDKITE", Ci::Buildkite),
    ("BITBUCKET_BUILD_NUMBER", Ci::Bitbucket),
    ("TEAMCITY_VERSION", Ci::TeamCity),
    ("DRONE", Ci::Drone),
    ("CI_PIPELINE_FORGE_URL", Ci::Drone),
    ("APPVEYOR", Ci::AppVeyor),
    ("CODEBUILD_BUILD_ID", Ci::CodeBuild),
    ("GITHUB_ACTIONS", Ci::GithubActions),
];

impl Ci {
    /// The service that set this environment.
    pub fn of(environment: &Environment) -> Option<Ci> {
        let marked = MARKS.iter().find(|(name, _)| environment.filled(name).is_some()).map(|(_, ci)| *ci);
        marked.or(environment.is_ci().then_some(Ci::Other))
    }

    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Ci::GithubActions => "GitHub Actions",
            Ci::Gitlab => "GitLab CI",
            Ci::Jenkins => "Jenkins",
            Ci::AzurePipelines => "Azure Pipelines",
            Ci::CircleCi => "CircleCI",
            Ci::Travis => "Travis CI",
            Ci::Buildkite => "Buildkite",
            Ci::Bitbucket => "Bitbucket Pipelines",
            Ci::TeamCity => "TeamCity",
            Ci::Drone => "Drone",
            Ci::AppVeyor => "AppVeyor",
            Ci::CodeBuild => "AWS CodeBuild",
            Ci::Other => "a CI service",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_variable() {
        type Case = (&'static [(&'static str, &'static str)], Option<Ci>);
        let cases: [Case; 8] = [
            (&[], None),
            (&[("CI", "true"), ("GITHUB_ACTIONS", "true")], Some(Ci::GithubActions)),
            (&[("CI", "true"), ("GITLAB_CI", "true")], Some(Ci::Gitlab)),
            (&[("JENKINS_URL", "http://ci/")], Some(Ci::Jenkins)),
            (&[("TF_BUILD", "True")], Some(Ci::AzurePipelines)),
            (&[("CI", "1")], Some(Ci::Other)),
            (&[("CI", "false")], None),
            (&[("GITLAB_CI", "")], None),
        ];
        for (vars, expected) in cases {
            let vars = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
            assert_eq!(Ci::of(&Environment { vars, ..Environment::default() }), expected);
        }
    }
}
