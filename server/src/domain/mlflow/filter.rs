//! Filters and orders as MLflow writes them: ``metrics.`train/loss` < 2.5 AND tags.senmon.role = 'expert'``.
//!
//! Comparisons joined by AND, as there; what is not understood is refused with the place, never passed over.

use std::cmp::Ordering;

/// What a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// A field of its own.
    Attribute,
    /// A tag.
    Tag,
    /// A parameter.
    Param,
    /// The last value of a metric.
    Metric,
}

/// Something that can be compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(f64),
}

/// A field that something has of its own.
pub type Attribute = (&'static str, Kind);

/// What an attribute holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A number.
    Number,
}

/// What a key of an entity is, of one experiment or run; None where it has none.
pub type Look<'a> = &'a dyn Fn(Entity, &str) -> Option<Value>;

/// Comparisons that all must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Vec<Term>);

#[derive(Debug, Clone, PartialEq)]
struct Term {
    entity: Entity,
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// To a number, one of which orderings.
    Number(Vec<Ordering>, f64),
    /// To texts, whether it is one of them.
    OneOf(Vec<String>, bool),
    /// To a pattern of SQL; whether in any case.
    Like(String, bool),
}

/// By what to sort, and whether downwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    entity: Entity,
    key: String,
    is_down: bool,
}

impl Filter {
    /// Reads a filter; an empty one lets all through.
    ///
    /// # Errors
    /// A sentence with what was found.
    pub fn parse(text: &str, attributes: &[Attribute]) -> Result<Self, String> {
        let mut tokens = tokens(text)?.into_iter().peekable();
        let mut terms = Vec::new();
        while tokens.peek().is_some() {
            if !terms.is_empty() {
                match tokens.next() {
                    Some(Token::Word(word)) if word.eq_ignore_ascii_case("and") => {}
                    other => return Err(format!("found {}, expected AND between comparisons", said(other.as_ref()))),
                }
            }
            terms.push(Term::parse(&mut tokens, attributes)?);
        }
        Ok(Self(terms))
    }

    /// Whether it asks for metrics, which are looked up for that.
    #[must_use]
    pub fn needs_metrics(&self) -> bool {
        self.0.iter().any(|term| term.entity == Entity::Metric)
    }

    /// Whether all comparisons hold. What has no such key fits none.
    #[must_use]
    pub fn fits(&self, look: Look) -> bool {
        self.0.iter().all(|term| look(term.entity, &term.key).is_some_and(|found| term.test.holds(&found)))
    }
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

impl Term {
    fn parse(tokens: &mut Tokens, attributes: &[Attribute]) -> Result<Self, String> {
        let (entity, key, kind) = key(tokens, attributes)?;
        let operator = match tokens.next() {
            Some(Token::Sign(sign)) => sign.to_owned(),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("not") => match tokens.next() {
                Some(Token::Word(word)) if word.eq_ignore_ascii_case("in") => "NOT IN".to_owned(),
                other => return Err(format!("found NOT {}, expected NOT IN", said(other.as_ref()))),
            },
            Some(Token::Word(word)) => word.to_ascii_uppercase(),
            other => return Err(format!("{key}: found {}, expected a comparison", said(other.as_ref()))),
        };
        let test = match (kind, operator.as_str()) {
            (Kind::Number, sign) => {
                use Ordering::{Equal, Greater, Less};
                let orderings = match sign {
                    "=" => vec![Equal],
                    "!=" => vec![Less, Greater],
                    "<" => vec![Less],
                    "<=" => vec![Less, Equal],
                    ">" => vec![Greater],
                    ">=" => vec![Greater, Equal],
                    other => return Err(format!("{key}: found {other}, expected one of = != < <= > >=")),
                };
                match tokens.next() {
                    Some(Token::Word(word)) if word.parse::<f64>().is_ok_and(f64::is_finite) => {
                        Test::Number(orderings, word.parse().unwrap_or_default())
                    }
                    other => return Err(format!("{key}: found {}, expected a number", said(other.as_ref()))),
                }
            }
            (Kind::Text, "=") => Test::OneOf(vec![quoted(&key, tokens)?], true),
            (Kind::Text, "!=") => Test::OneOf(vec![quoted(&key, tokens)?], false),
            (Kind::Text, "LIKE") => Test::Like(quoted(&key, tokens)?, false),
            (Kind::Text, "ILIKE") => Test::Like(quoted(&key, tokens)?.to_lowercase(), true),
            (Kind::Text, "IN") => Test::OneOf(list(&key, tokens)?, true),
            (Kind::Text, "NOT IN") => Test::OneOf(list(&key, tokens)?, false),
            (Kind::Text, other) => {
                return Err(format!("{key}: found {other}, expected one of = != LIKE ILIKE IN, NOT IN"));
            }
        };
        Ok(Self { entity, key, test })
    }
}

impl Test {
    fn holds(&self, found: &Value) -> bool {
        match (self, found) {
            (Self::Number(orderings, than), Value::Number(number)) => {
                number.partial_cmp(than).is_some_and(|ordering| orderings.contains(&ordering))
            }
            (Self::OneOf(texts, wanted), Value::Text(text)) => texts.contains(text) == *wanted,
            (Self::Like(pattern, false), Value::Text(text)) => is_like(text, pattern),
            (Self::Like(pattern, true), Value::Text(text)) => is_like(&text.to_lowercase(), pattern),
            _ => false,
        }
    }
}

impl Order {
    /// Reads one entry of `order_by`: a key, and ASC or DESC behind it.
    ///
    /// # Errors
    /// A sentence with what was found.
    pub fn parse(text: &str, attributes: &[Attribute]) -> Result<Self, String> {
        let mut tokens = tokens(text)?.into_iter().peekable();
        let (entity, key, _) = key(&mut tokens, attributes)?;
        let is_down = match tokens.next() {
            None => false,
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("asc") => false,
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("desc") => true,
            other => return Err(format!("{key}: found {}, expected ASC or DESC", said(other.as_ref()))),
        };
        match tokens.next() {
            None => Ok(Self { entity, key, is_down }),
            other => Err(format!("{key}: found {}, expected the end", said(other.as_ref()))),
        }
    }

    /// Whether it asks for metrics.
    #[must_use]
    pub fn needs_metrics(&self) -> bool {
        self.entity == Entity::Metric
    }

    /// How two follow each other. What has no such key comes last.
    #[must_use]
    pub fn compare(&self, one: Look, other: Look) -> Ordering {
        let ordering = match (one(self.entity, &self.key), other(self.entity, &self.key)) {
            (Some(Value::Number(one)), Some(Value::Number(other))) => one.total_cmp(&other),
            (Some(Value::Text(one)), Some(Value::Text(other))) => one.cmp(&other),
            (one, other) => return other.is_some().cmp(&one.is_some()),
        };
        if self.is_down { ordering.reverse() } else { ordering }
    }
}

/// A key: its entity, its name, and what it holds.
fn key(tokens: &mut Tokens, attributes: &[Attribute]) -> Result<(Entity, String, Kind), String> {
    let first = tokens.next();
    let text = match &first {
        Some(Token::Word(word)) => word.as_str(),
        Some(Token::Key(key)) => key.as_str(),
        other => return Err(format!("found {}, expected a key", said(other.as_ref()))),
    };
    let (prefix, rest) = text.split_once('.').unwrap_or(("attributes", text));
    let entity = match prefix.to_ascii_lowercase().as_str() {
        "attribute" | "attributes" | "attr" | "run" => Entity::Attribute,
        "tag" | "tags" => Entity::Tag,
        "param" | "params" | "parameter" | "parameters" => Entity::Param,
        "metric" | "metrics" => Entity::Metric,
        _ => return Err(format!("found {text:?}, expected attributes., tags., params. or metrics. before a key")),
    };
    let mut name = rest.to_owned();
    // ``metrics.`a b` ``: the name in marks of its own.
    if name.is_empty() {
        name = match tokens.next() {
            Some(Token::Key(key) | Token::Text(key)) => key,
            other => return Err(format!("found {} behind {text}, expected a key", said(other.as_ref()))),
        };
    }
    let kind = match entity {
        Entity::Tag | Entity::Param => Kind::Text,
        Entity::Metric => Kind::Number,
        Entity::Attribute => match attributes.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => *kind,
            None => {
                let known: Vec<&str> = attributes.iter().map(|(known, _)| *known).collect();
                return Err(format!("attribute: found {name:?}, expected one of {}", known.join(", ")));
            }
        },
    };
    Ok((entity, name, kind))
}

fn quoted(key: &str, tokens: &mut Tokens) -> Result<String, String> {
    match tokens.next() {
        Some(Token::Text(text)) => Ok(text),
        other => Err(format!("{key}: found {}, expected a text in quotation marks", said(other.as_ref()))),
    }
}

/// `('a', 'b')`.
fn list(key: &str, tokens: &mut Tokens) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    let mut next = tokens.next();
    while matches!(&next, Some(Token::Sign(sign)) if *sign == if texts.is_empty() { "(" } else { "," }) {
        texts.push(quoted(key, tokens)?);
        next = tokens.next();
    }
    match next {
        Some(Token::Sign(")")) if !texts.is_empty() => Ok(texts),
        other => Err(format!("{key}: found {}, expected texts in parentheses", said(other.as_ref()))),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// In backticks.
    Key(String),
    /// In quotation marks.
    Text(String),
    Sign(&'static str),
}

fn said(token: Option<&Token>) -> String {
    match token {
        None => "the end".into(),
        Some(Token::Word(text)) => text.clone(),
        Some(Token::Key(text)) => format!("`{text}`"),
        Some(Token::Text(text)) => format!("'{text}'"),
        Some(Token::Sign(sign)) => (*sign).into(),
    }
}

/// Longer ones first.
const SIGNS: [&str; 9] = ["!=", "<=", ">=", "=", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let in_word = |c: char| c.is_alphanumeric() || "_.-+/~".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else if "'\"`".contains(first) {
            let (inside, after) = rest[1..].split_once(first).ok_or_else(|| format!("found no end of {rest}"))?;
            tokens.push(if first == '`' { Token::Key(inside.into()) } else { Token::Text(inside.into()) });
            rest = after;
        } else if in_word(first) {
            let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].into()));
            rest = &rest[end..];
        } else {
            return Err(format!("found {first:?}, expected a key, a comparison or a value"));
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// LIKE of SQL: `%` is any text, `_` any one character.
fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // Which beginnings of the text the pattern so far fits.
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for sign in pattern.chars() {
        if sign == '%' {
            if let Some(first) = fits.iter().position(|fit| *fit) {
                fits[first..].fill(true);
            }
            continue;
        }
        for i in (0..text.len()).rev() {
            fits[i + 1] = fits[i] && (sign == '_' || sign == text[i]);
        }
        fits[0] = false;
    }
    fits[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTRIBUTES: &[Attribute] = &[("status", Kind::Text), ("run_name", Kind::Text), ("start_time", Kind::Number)];

    fn look(entity: Entity, key: &str) -> Option<Value> {
        match (entity, key) {
            (Entity::Attribute, "status") => Some(Value::Text("FINISHED".into())),
            (Entity::Attribute, "run_name") => Some(Value::Text("expert-3~2".into())),
            (Entity::Attribute, "start_time") => Some(Value::Number(1000.0)),
            (Entity::Tag, "senmon.role") => Some(Value::Text("expert".into())),
            (Entity::Param, "domain") => Some(Value::Text("3".into())),
            (Entity::Metric, "train/loss") => Some(Value::Number(2.5)),
            _ => None,
        }
    }

    fn fits(text: &str) -> bool {
        Filter::parse(text, ATTRIBUTES).unwrap().fits(&look)
    }

    #[test]
    fn a_filter_is_comparisons_joined_by_and() {
        for (text, expect) in [
            ("", true),
            ("attributes.status = 'FINISHED'", true),
            ("status = \"RUNNING\"", false),
            ("status != 'RUNNING' and run.run_name LIKE 'expert-_~%'", true),
            ("run_name ILIKE 'EXPERT%'", true),
            ("run_name LIKE 'EXPERT%'", false),
            ("run_name LIKE '%~2' AND start_time >= 1000", true),
            ("start_time > 1e3", false),
            ("metrics.train/loss < 2.51", true),
            ("metrics.`train/loss` <= 2.5 AND metric.\"train/loss\" > -1", true),
            ("metrics.`train/loss` != 2.5", false),
            ("tags.senmon.role = 'expert' AND params.domain IN ('2', '3')", true),
            ("params.domain NOT IN ('3')", false),
            ("tags.nothing != 'x'", false),
        ] {
            assert_eq!(fits(text), expect, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_was_found() {
        for (text, says) in [
            ("status", "status: found the end, expected a comparison"),
            ("status = FINISHED", "found FINISHED, expected a text in quotation marks"),
            ("status = 'FINISHED' OR status = 'FAILED'", "found OR, expected AND"),
            ("metrics.loss = 'x'", "found 'x', expected a number"),
            ("metrics.loss LIKE 1", "found LIKE, expected one of = !="),
            ("colour = 'red'", "attribute: found \"colour\", expected one of status, run_name, start_time"),
            ("things.colour = 'red'", "expected attributes., tags., params. or metrics."),
            ("status = 'FIN", "found no end of 'FIN"),
            ("status ; DROP", "found ';'"),
            ("params.x IN ()", "expected a text in quotation marks"),
        ] {
            let refused = Filter::parse(text, ATTRIBUTES).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }

    #[test]
    fn an_order_puts_what_has_no_such_key_last() {
        let other = |entity, key: &str| match (entity, key) {
            (Entity::Metric, "train/loss") => Some(Value::Number(3.0)),
            (Entity::Metric, "more") => Some(Value::Number(0.0)),
            _ => None,
        };
        for (text, expect) in [
            ("metrics.`train/loss`", Ordering::Less),
            ("metrics.train/loss ASC", Ordering::Less),
            ("metrics.train/loss DESC", Ordering::Greater),
            ("metrics.more DESC", Ordering::Greater),
            ("status asc", Ordering::Less),
        ] {
            assert_eq!(Order::parse(text, ATTRIBUTES).unwrap().compare(&look, &other), expect, "{text}");
        }
        assert!(Order::parse("status sideways", ATTRIBUTES).unwrap_err().contains("expected ASC or DESC"));
    }

    #[test]
    fn like_is_that_of_sql() {
        for (text, pattern, expect) in [
            ("abc", "abc", true),
            ("abc", "a%c%", true),
            ("abc", "_b_", true),
            ("abc", "_b", false),
            ("", "%", true),
            ("a", "", false),
        ] {
            assert_eq!(is_like(text, pattern), expect, "{text} {pattern}");
        }
    }
}
