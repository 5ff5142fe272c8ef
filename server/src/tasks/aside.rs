//! One thing that a loop cannot do holds no other up: it is tried again with growing pauses, and set aside with its
//! reason after a few tries, until somebody asks for it again.

use super::{
    ask::ask,
    failure::{Cause, cause},
    supervise::{Failure, guarded},
};
use crate::{
    app::App,
    db::{
        events::NewEvent,
        troubles::{self, Trouble},
        word,
    },
};
use anyhow::Result;
use senmon_protocol::{
    ids::ExperimentId,
    said,
    said::{Said, SaidValue, of},
    view::TroubleKind,
};
use std::collections::HashMap;
use uuid::Uuid;

/// How work on one thing went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried<T> {
    /// It is done.
    Done(T),
    /// It failed, and is tried again after a pause.
    Again,
    /// It failed once too often: why, in a sentence.
    SetAside(Said),
}

/// The troubles of one kind of things, as they are now.
#[derive(Debug)]
pub struct Aside<'a> {
    app: &'a App,
    kind: TroubleKind,
    troubles: HashMap<Uuid, Trouble>,
}

impl<'a> Aside<'a> {
    /// Looks them up.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn load(app: &'a App, kind: TroubleKind) -> Result<Self> {
        Ok(Self { app, kind, troubles: ask(troubles::of(&app.db, kind, None)).await? })
    }

    /// Whether a thing is not to be tried now.
    #[must_use]
    pub fn rests(&self, id: Uuid) -> bool {
        self.troubles.get(&id).is_some_and(|trouble| trouble.rests)
    }

    /// All that are not to be tried now.
    #[must_use]
    pub fn resting(&self) -> Vec<Uuid> {
        self.troubles.iter().filter(|(_, trouble)| trouble.rests).map(|(id, _)| *id).collect()
    }

    /// Works on one thing; where that fails, it is noted. `name` is what people call it.
    ///
    /// # Errors
    /// When the database or the store is away: that is no fault of the thing's.
    pub async fn attempt<T>(
        &self,
        id: Uuid,
        name: impl Into<SaidValue>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Tried<T>> {
        let failure = match guarded(work).await {
            Ok(done) => {
                if self.troubles.contains_key(&id) {
                    ask(troubles::forget(&self.app.db, self.kind, id)).await?;
                }
                return Ok(Tried::Done(done));
            }
            Err(Failure::Error(error)) if cause(&error) == Cause::Away => return Err(error),
            Err(failure) => failure.to_string(),
        };
        let set_aside = self.note(id, name.into(), &failure).await?;
        Ok(set_aside.map_or(Tried::Again, Tried::SetAside))
    }

    async fn note(&self, id: Uuid, name: SaidValue, problem: &str) -> Result<Option<Said>> {
        let kind = word(&self.kind);
        tracing::error!(kind, %id, ?name, problem, "something could not be done");
        let problem = senmon_protocol::storable(problem);
        let (trouble, is_new) = ask(troubles::failed(&self.app.db, self.kind, id, &problem)).await?;
        let sentence = trouble.sentence().filter(|_| is_new);
        if let Some(why) = sentence.clone() {
            let experiment_id = (self.kind == TroubleKind::Experiment).then_some(ExperimentId(id));
            let (noun, name, id) = (of::trouble(self.kind), name.clone(), id.to_string());
            let said = said!("set_aside", kind = noun, name = name, id = id, why = why);
            let event = NewEvent { kind: "set_aside", level: "error", said, experiment_id, ..NewEvent::default() };
            self.app.event(event).await;
        }
        Ok(sentence)
    }
}
