//! The lines of the main table: losses, differences to dense, costs; mean and range where there are repeats.

use super::input::{Input, Mixed, Scored, Weights};
use senmon_corpus::compare::mean_loss;
use senmon_protocol::{
    ids::EvaluationId,
    job::{Compared, DomainLoss, EnsembleLine},
    report::{Contestant, ContestantCost, Difference, Spread},
    said,
    said::Said,
    view::BranchRole,
};

/// All lines. The figures of a line are those of the first repeat that has it.
pub fn contestants(input: &Input, weights: &Weights) -> Vec<Contestant> {
    let last = input.matrix.iter().map(|scored| scored.row.repeat).max().unwrap_or(0);
    let repeats: Vec<Vec<Contestant>> = (0..=last).map(|repeat| Table { input, weights, repeat }.lines()).collect();
    let mut lines: Vec<Contestant> = Vec::new();
    for line in repeats.iter().flatten() {
        if lines.iter().any(|known| known.key == line.key) {
            continue;
        }
        let mut line = line.clone();
        if last > 0 && line.key != "seed" {
            line.spread = spread(repeats.iter().filter_map(|lines| lines.iter().find(|other| other.key == line.key)));
        }
        lines.push(line);
    }
    lines
}

/// The table of one repeat.
struct Table<'a> {
    input: &'a Input<'a>,
    weights: &'a Weights,
    repeat: u32,
}

/// What a line is of.
struct Line<'a> {
    key: String,
    title: Said,
    domains: &'a [DomainLoss],
    compared: Option<&'a Compared>,
    /// The branches whose training it took.
    trained: Vec<&'a Scored>,
    top_k: Option<u32>,
    temperature: Option<f64>,
    evaluation_id: EvaluationId,
    single: Option<&'a Scored>,
}

impl Table<'_> {
    fn lines(&self) -> Vec<Contestant> {
        let mut lines = self.singles();
        lines.extend(self.mixed().into_iter().flat_map(|mixed| self.routed(mixed)));
        let of = |key: &str| lines.iter().find(|line| line.key == key).and_then(|line| line.loss);
        let (seed, dense) = (of("seed"), of("dense"));
        for line in &mut lines {
            if let (Some(loss), Some(dense)) = (line.loss, dense.filter(|_| line.key != "dense")) {
                line.vs_dense_percent = Some((loss - dense).exp_m1() * 100.0).filter(|percent| percent.is_finite());
            }
            match hours_per_nat(line, seed) {
                Ok(hours) => line.cost.hours_per_nat = hours,
                Err(why) => say_absent(line, said!("figure_hours_per_nat"), why),
            }
        }
        lines
    }

    /// Scored branches of a role, of this repeat.
    fn of(&self, role: BranchRole) -> Vec<&Scored> {
        let own = |scored: &&Scored| {
            scored.row.role == role && (scored.row.repeat == self.repeat || role == BranchRole::Seed)
        };
        self.input.matrix.iter().filter(own).collect()
    }

    fn mixed(&self) -> Option<&Mixed> {
        self.input.ensembles.iter().find(|mixed| mixed.repeat == self.repeat)
    }

    fn singles(&self) -> Vec<Contestant> {
        let mut lines = Vec::new();
        let experts = self.of(BranchRole::Expert);
        let mixed = self.mixed();
        let compared = |scored: &Scored| {
            let alone = mixed?.result.alone.iter().find(|alone| alone.branch == scored.row.branch)?;
            Some(&alone.vs_dense)
        };
        let mut single = |key: &str, title: Said, scored, trained, compared| {
            lines.push(self.single((key.to_owned(), title), scored, trained, compared));
        };
        for scored in self.of(BranchRole::Seed) {
            single("seed", said!("contestant_seed"), scored, vec![scored], compared(scored));
        }
        for scored in self.of(BranchRole::Dense) {
            single("dense", said!("contestant_dense"), scored, vec![scored], None);
        }
        if let Some(best) = mixed.and_then(|mixed| mixed.result.best_expert.as_ref())
            && let Some(scored) = experts.iter().find(|expert| expert.row.branch == best.branch)
        {
            let title = said!("contestant_best_expert", branch = &best.branch);
            single("best_expert", title, scored, vec![scored], Some(&best.vs_dense));
        }
        for scored in self.of(BranchRole::Average) {
            let trained = experts.iter().copied().chain([scored]).collect();
            single("average", said!("contestant_average"), scored, trained, compared(scored));
        }
        if let Some(mixed) = mixed
            && let Some(line) = &mixed.result.random
        {
            let at = lines.iter().position(|line| line.key == "best_expert" || line.key == "average");
            let titled = ("random_ensemble".to_owned(), said!("contestant_random"));
            let random = self.ensemble(titled, line, mixed, self.of(BranchRole::Random));
            lines.insert(at.unwrap_or(lines.len()), random);
        }
        lines
    }

    /// The routed ensemble as it was chosen, then at each number of experts.
    fn routed(&self, mixed: &Mixed) -> Vec<Contestant> {
        let result = &mixed.result;
        let experts = self.of(BranchRole::Expert);
        let line = |titled, line| self.ensemble(titled, line, mixed, experts.clone());
        let chosen = result.chosen.and_then(|chosen| result.lines.iter().find(|line| line.top_k == chosen.top_k));
        let mut lines: Vec<Contestant> = chosen
            .into_iter()
            .map(|chosen| line(("ensemble".to_owned(), said!("contestant_ensemble", top_k = chosen.top_k)), chosen))
            .collect();
        for found in &result.lines {
            let (key, title) = if found.top_k as usize == experts.len() {
                ("ensemble_all".to_owned(), said!("contestant_ensemble_all"))
            } else {
                (format!("ensemble_top_{}", found.top_k), said!("contestant_ensemble_top", top_k = found.top_k))
            };
            lines.push(line((key, title), found));
        }
        lines
    }

    fn single(
        &self,
        (key, title): (String, Said),
        scored: &Scored,
        trained: Vec<&Scored>,
        compared: Option<&Compared>,
    ) -> Contestant {
        self.line(Line {
            key,
            title,
            domains: &scored.row.domains,
            compared,
            trained,
            top_k: None,
            temperature: None,
            evaluation_id: scored.row.evaluation_id,
            single: Some(scored),
        })
    }

    fn ensemble(
        &self,
        (key, title): (String, Said),
        line: &EnsembleLine,
        mixed: &Mixed,
        trained: Vec<&Scored>,
    ) -> Contestant {
        self.line(Line {
            key,
            title,
            domains: &line.domains,
            compared: Some(&line.vs_dense),
            trained,
            top_k: Some(line.top_k),
            temperature: line.temperature,
            evaluation_id: mixed.evaluation_id,
            single: None,
        })
    }

    fn line(&self, line: Line) -> Contestant {
        let mut absent: Vec<Said> = Vec::new();
        let mut figure = |name: Said, found: Result<f64, Said>| match found.map(|loss| (loss, loss.exp())) {
            Ok((loss, perplexity)) if perplexity.is_finite() => (Some(loss), Some(perplexity)),
            Ok((loss, _)) => {
                absent.push(said!("absent_figure", figure = name, why = said!("exponential_not_finite")));
                (Some(loss), None)
            }
            Err(why) => {
                absent.push(said!("absent_figure", figure = name, why = why));
                (None, None)
            }
        };
        let (loss, perplexity) = figure(said!("figure_loss"), mean_loss(line.domains, &self.weights.by_share));
        let (loss_macro, perplexity_macro) =
            figure(said!("figure_macro"), mean_loss(line.domains, &self.weights.alike));
        let (vs_dense, vs_dense_macro) = match line.compared {
            _ if line.key == "dense" => (None, None),
            None => {
                let why = said!("comparison_unfinished");
                absent.push(said!("absent_figure", figure = said!("figure_difference"), why = why));
                (None, None)
            }
            Some(Compared { by_share, alike, absent: why, absent_said }) => {
                let known = absent_said.clone().zip(why.as_deref()).and_then(|(said, text)| said.that_says(text));
                let why = known.or_else(|| why.as_deref().map(Said::verbatim));
                let figure = said!("figure_difference");
                absent.extend(why.map(|why| said!("absent_figure", figure = figure, why = why)));
                (by_share.map(Difference::from), alike.map(Difference::from))
            }
        };
        let top_k = line.top_k;
        Contestant {
            repeat: self.repeat,
            cost: self.cost(&line.trained, top_k.unwrap_or(1)),
            perplexity,
            loss,
            perplexity_macro,
            loss_macro,
            vs_dense_percent: None,
            vs_dense,
            vs_dense_macro,
            temperature: line.temperature,
            top_k,
            documents: line.domains.iter().map(|domain| domain.documents).sum(),
            tokens: line.domains.iter().map(|domain| domain.tokens).sum(),
            domains: line.domains.to_vec(),
            spread: None,
            absent: absent.iter().map(Said::text).collect(),
            absent_said: absent,
            evaluation_id: line.evaluation_id,
            checkpoint_id: line.single.map(|scored| scored.row.checkpoint_id),
            branch_id: line.single.map(|scored| scored.row.branch_id),
            key: line.key,
            title: line.title.text(),
            title_said: Some(line.title),
        }
    }

    fn cost(&self, trained: &[&Scored], forward_passes: u32) -> ContestantCost {
        let costs = trained
            .iter()
            .filter_map(|scored| self.input.costs.iter().find(|cost| cost.branch_id == scored.row.branch_id));
        let mut sum = ContestantCost {
            parameters_active: trained
                .iter()
                .find_map(|scored| scored.parameters)
                .map(|parameters| parameters.saturating_mul(forward_passes.into())),
            forward_passes: Some(forward_passes),
            ..ContestantCost::default()
        };
        for cost in costs {
            sum.training_tokens += cost.tokens;
            sum.gpu_hours += cost.gpu_hours;
            sum.cpu_slot_hours += cost.cpu_slot_hours;
        }
        sum
    }
}

fn say_absent(line: &mut Contestant, figure: Said, why: Said) {
    let said = said!("absent_figure", figure = figure, why = why);
    line.absent.push(said.text());
    line.absent_said.push(said);
}

/// Hours of training for each nat gained over the seed; None for the seed itself, which gains nothing over itself.
fn hours_per_nat(line: &Contestant, seed: Option<f64>) -> Result<Option<f64>, Said> {
    if line.key == "seed" {
        return Ok(None);
    }
    let hours = line.cost.gpu_hours + line.cost.cpu_slot_hours;
    match (seed, line.loss) {
        (None, _) => Err(said!("seed_without_loss")),
        (_, None) => Err(said!("no_loss")),
        (Some(seed), Some(loss)) if loss >= seed => Err(said!("nothing_gained")),
        _ if hours <= 0.0 => Err(said!("no_training_time")),
        (Some(seed), Some(loss)) => {
            Some(hours / (seed - loss)).filter(|hours| hours.is_finite()).map(Some).ok_or_else(|| said!("not_finite"))
        }
    }
}

/// Mean, lowest and highest.
#[expect(clippy::cast_precision_loss, reason = "a few repeats")]
fn range(values: &[f64]) -> Option<[f64; 3]> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let low = values.iter().copied().reduce(f64::min)?;
    Some([mean, low, values.iter().copied().reduce(f64::max)?])
}

fn spread<'a>(repeats: impl Iterator<Item = &'a Contestant> + Clone) -> Option<Spread> {
    let losses: Vec<f64> = repeats.clone().filter_map(|line| line.loss).collect();
    let percents: Vec<f64> = repeats.filter_map(|line| line.vs_dense_percent).collect();
    let ([loss_mean, loss_min, loss_max], percents) = (range(&losses)?, range(&percents));
    Some(Spread {
        repeats: u32::try_from(losses.len()).unwrap_or(u32::MAX),
        loss_mean,
        loss_min,
        loss_max,
        vs_dense_percent_mean: percents.map(|[mean, ..]| mean),
        vs_dense_percent_min: percents.map(|[_, low, _]| low),
        vs_dense_percent_max: percents.map(|[.., high]| high),
    })
}
