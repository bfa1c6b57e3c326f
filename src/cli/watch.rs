//! `fastbuild watch`: settings and plan of each build, and [`watch::run`].

use super::{
    Failure, RunArgs,
    run::{self, execute},
};
use crate::{
    config::{EngineChoice, Environment, RouteChoice, Settings},
    plan::{self, Decision, Engine, Plan, Route},
    report::Reporter,
    state::State,
    watch,
};

/// Builds at each change; gives what to exit with.
///
/// # Errors
/// Before there is a reporter: what keeps fastbuild from knowing what to do.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let (settings, plan) = run::decide(args, &environment)?;
    let plan = plan.watched()?;
    let mut place = Place::of(&settings, &plan);
    let mut again = || Ok(place.plan(args, &environment)?);
    let work = async |state: &State, reporter: &Reporter| watch::run(plan, &mut again, state, reporter).await;
    execute(&settings.presentation, &environment, work)
}

/// Where the builds of a watch run. An engine that stops, and another one that comes up, change nothing about it, and neither
/// do contexts and benches; only who names another engine in `fastbuild.toml` does.
struct Place {
    engine: Decision<Engine>,
    named: Named,
}

/// What settings say of the engine.
#[derive(PartialEq)]
struct Named {
    engine: Decision<EngineChoice>,
    host: Option<Decision<String>>,
    /// The route that is an engine's name, too.
    by_route: bool,
}

impl Named {
    fn of(settings: &Settings) -> Named {
        Named {
            engine: settings.engine.clone(),
            host: settings.host.clone(),
            by_route: settings.route.value == RouteChoice::Fixed(Route::Host),
        }
    }
}

impl Place {
    fn of(settings: &Settings, plan: &Plan) -> Place {
        Place { engine: plan.engine.clone(), named: Named::of(settings) }
    }

    /// The plan of a later build.
    fn plan(&mut self, args: &RunArgs, environment: &Environment) -> Result<Plan, Failure> {
        run::await_root(args, environment)?;
        let mut settings = Settings::gather(args, environment)?;
        let is_as_named = Named::of(&settings) == self.named;
        if is_as_named {
            self.pin(&mut settings);
        }
        let plan = plan::prepare(&settings, environment)?.watched()?;
        if !is_as_named {
            *self = Place::of(&settings, &plan);
        }
        Ok(plan)
    }

    fn pin(&self, settings: &mut Settings) {
        let Decision { value, reason } = self.engine.clone();
        let choice = match value {
            Engine::Host => EngineChoice::Host,
            Engine::Docker(endpoint) => {
                settings.host = Some(Decision { value: endpoint.to_string(), reason: reason.clone() });
                EngineChoice::Docker
            }
        };
        settings.engine = Decision { value: choice, reason };
    }
}
