//! What an expression may cost at worst, before it is evaluated: what its schema lets values grow to, multiplied through the
//! macros. Gives the same numbers as cel-go's cost estimator with Kubernetes' functions, since definitions are refused by them.

mod calls;

use std::collections::HashMap;
use std::sync::Arc;

use crate::check::Checked;
use crate::schema::{Below, Declared};
use crate::syntax::{Expr, Fold, FoldKind, Name, Node};
use crate::types::Type;
use crate::value::Value;

/// The least and the most of a size or a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

/// See upstream's ListCreateBaseCost and its like.
const LIST: u64 = 10;
const MAP: u64 = 30;
const MESSAGE: u64 = 40;
/// Looking at a character.
const TRAVERSAL: f64 = 0.1;

impl Range {
    const NOTHING: Self = Self::of(0);
    const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    const fn of(n: u64) -> Self {
        Self { min: n, max: n }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Rounded up; what does not fit is the most there is.
    fn scaled(self, by: f64) -> Self {
        let scale = |n: u64| (n as f64 * by).ceil() as u64;
        Self { min: scale(self.min), max: scale(self.max) }
    }

    /// What covers both.
    fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Where in the declared type a value stands. A value of which nothing is known becomes the root by the first step below it, as
/// upstream's estimator takes off the first step of every path.
#[derive(Debug, Clone)]
enum Place {
    Nowhere,
    At(Option<Arc<Declared>>),
}

/// The sizes of what a list or map has inside.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn or(self, other: Self) -> Self {
        Self { is_list: self.is_list, key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

#[derive(Clone)]
struct Local {
    name: Name,
    place: Place,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// What the expression costs at most; `root` is what its variables are declared as.
pub(crate) fn estimate(expr: &Expr, checked: &Checked<'_>, root: &Arc<Declared>) -> u64 {
    let mut coster = Coster { checked, root, locals: Vec::new(), places: HashMap::new(), sizes: HashMap::new(), entries: HashMap::new() };
    coster.cost(expr).max
}

struct Coster<'a> {
    checked: &'a Checked<'a>,
    root: &'a Arc<Declared>,
    locals: Vec<Local>,
    places: HashMap<u32, Place>,
    sizes: HashMap<u32, Range>,
    entries: HashMap<u32, Entries>,
}

impl Coster<'_> {
    fn cost(&mut self, expr: &Expr) -> Range {
        match &expr.node {
            Node::Literal(_) => Range::NOTHING,
            Node::Ident(name) => {
                let place = self.local(name).map_or_else(|| Place::At(Some(self.root.clone())), |l| l.place.clone());
                self.places.insert(expr.id, place);
                Range::of(1)
            }
            Node::Select { .. } if expr.qualified().is_some_and(|name| Type::called(&name).is_some()) => Range::of(1),
            Node::Select { operand, optional: true, .. } => Range::of(1).plus(self.cost(operand)),
            Node::Select { operand, field, .. } => {
                let cost = self.cost(operand);
                let place = self.below(&self.place(operand), field);
                self.places.insert(expr.id, place);
                let looks = matches!(self.checked.head(operand), Type::Map(_) | Type::Object(_));
                cost.plus(Range::of(u64::from(looks)))
            }
            // Asking whether a field is there costs nothing of its own; see upstream's PresenceTestHasCost(false).
            Node::Has { operand, .. } => self.cost(operand),
            Node::Index { operand, index, .. } => self.index(expr, operand, index),
            Node::Call { function, receiver, args } => self.call(expr, function, *receiver, args),
            Node::And(a, b) | Node::Or(a, b) => {
                let (a, b) = (self.cost(a), self.cost(b));
                Range { min: a.min, max: a.plus(b).max }
            }
            Node::Conditional(parts) => {
                let [condition, yes, no] = &**parts;
                let (condition, yes_cost, no_cost) = (self.cost(condition), self.cost(yes), self.cost(no));
                let size = self.size(yes).or(self.size(no));
                self.sizes.insert(expr.id, size);
                if let (Some(yes), Some(no)) = (self.entries(yes), self.entries(no)) {
                    self.entries.insert(expr.id, yes.or(no));
                }
                condition.plus(yes_cost.or(no_cost))
            }
            Node::List(items) => {
                let cost = items.iter().fold(Range::of(LIST), |sum, (item, _)| sum.plus(self.cost(item)));
                let value = self.covering(items.iter().map(|(item, _)| item));
                self.entries.insert(expr.id, Entries { is_list: true, key: Range::of(1), value });
                cost
            }
            Node::Map(entries) => {
                let cost = entries.iter().fold(Range::of(MAP), |sum, (k, v, _)| sum.plus(self.cost(k)).plus(self.cost(v)));
                let (key, value) = (self.covering(entries.iter().map(|(k, ..)| k)), self.covering(entries.iter().map(|(_, v, _)| v)));
                self.entries.insert(expr.id, Entries { is_list: false, key, value });
                cost
            }
            Node::Message { fields, .. } => fields.iter().fold(Range::of(MESSAGE), |sum, (_, value, _)| sum.plus(self.cost(value))),
            Node::Fold(fold) => self.fold(expr, fold),
            Node::Bind { name, value, body } => {
                let cost = Range::of(LIST).plus(self.cost(value));
                let local =
                    Local { name: name.clone(), place: self.place(value), size: self.known_size(value), entries: self.entries(value) };
                let cost = cost.plus(self.with(vec![local], |c| c.cost(body)));
                self.take_after(expr, body);
                cost
            }
            Node::OptMap { operand, name, body, flat } => self.opt_map(operand, name, body, *flat),
        }
    }

    /// `operand.hasValue() ? optional.of(cel.bind(name, operand.value(), body)) : optional.none()`
    fn opt_map(&mut self, operand: &Expr, name: &Name, body: &Expr, flat: bool) -> Range {
        let operand = self.cost(operand).plus(Range::of(1));
        let local = Local { name: name.clone(), place: Place::Nowhere, size: None, entries: None };
        let body = self.with(vec![local], |c| c.cost(body));
        let made = operand.plus(Range::of(LIST + u64::from(!flat))).plus(body);
        operand.plus(made.or(Range::of(1)))
    }

    fn covering<'e>(&mut self, parts: impl Iterator<Item = &'e Expr>) -> Range {
        parts.map(|part| self.size(part)).reduce(Range::or).unwrap_or(Range::NOTHING)
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| *l.name == *name)
    }

    fn with<T>(&mut self, locals: Vec<Local>, run: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.locals.len();
        self.locals.extend(locals);
        let out = run(self);
        self.locals.truncate(before);
        out
    }

    fn place(&self, expr: &Expr) -> Place {
        if let Node::Ident(name) = &expr.node
            && let Some(local) = self.local(name)
        {
            return local.place.clone();
        }
        self.places.get(&expr.id).cloned().unwrap_or(Place::Nowhere)
    }

    fn below(&self, place: &Place, step: &str) -> Place {
        let at = match place {
            Place::Nowhere => return Place::At(Some(self.root.clone())),
            Place::At(None) => return Place::At(None),
            Place::At(Some(at)) => at,
        };
        Place::At(match (step, &at.below) {
            ("@items" | "@values", Below::Items(below) | Below::Values(below)) => Some(below.clone()),
            ("@keys", Below::Values(_)) => Some(Arc::new(Declared::simple(Type::Text))),
            (field, _) => at.field(field).cloned(),
        })
    }

    fn declared_size(place: &Place) -> Option<Range> {
        match place {
            Place::At(Some(declared)) => Some(Range { min: 0, max: declared.most }),
            _ => None,
        }
    }

    /// The size of a value, as far as anything says what it is.
    fn known_size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        let written = match &expr.node {
            Node::Literal(Value::Text(text)) => Some(text.chars().count()),
            Node::Literal(Value::Bytes(bytes)) => Some(bytes.len()),
            Node::Literal(_) => Some(1),
            Node::List(items) => Some(items.len()),
            Node::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(size) = written {
            return Some(Range::of(size as u64));
        }
        if let Some(size) = Self::declared_size(&self.place(expr)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if self.is_scalar(&self.checked.head(expr)) {
            return Some(Range::of(1));
        }
        match &expr.node {
            Node::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn is_scalar(&self, ty: &Type) -> bool {
        match ty {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Timestamp | Type::Duration => true,
            other => other.inside().is_some_and(|inside| self.is_scalar(&self.checked.inner(inside))),
        }
    }

    fn size(&mut self, expr: &Expr) -> Range {
        self.known_size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        match (self.entries.get(&expr.id), &expr.node) {
            (Some(entries), _) => Some(*entries),
            (None, Node::Ident(name)) => self.local(name).and_then(|l| l.entries),
            _ => None,
        }
    }

    fn take_after(&mut self, expr: &Expr, other: &Expr) {
        let (size, entries) = (self.known_size(other), self.entries(other));
        self.sizes.extend(size.map(|s| (expr.id, s)));
        self.entries.extend(entries.map(|e| (expr.id, e)));
    }

    /// What the names of a macro are bound to.
    fn names(&self, fold: &Fold) -> Vec<Local> {
        let entries = self.entries(&fold.range);
        let is_list = entries.map_or_else(|| matches!(self.checked.head(&fold.range), Type::List(_)), |e| e.is_list);
        let place = self.place(&fold.range);
        let local = |name: &Name, step: &str, size: Option<Range>| Local {
            name: name.clone(),
            place: self.below(&place, step),
            size,
            entries: None,
        };
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        let values = if is_list { "@items" } else { "@values" };
        match &fold.second {
            Some(second) => vec![local(&fold.first, if is_list { "@indices" } else { "@keys" }, key), local(second, values, value)],
            None if is_list => vec![local(&fold.first, values, value)],
            None => vec![local(&fold.first, "@keys", key)],
        }
    }

    /// The cost of a macro as of the loop that it stands for: what is accumulated from, a condition and a step for each element,
    /// and the result.
    fn fold(&mut self, expr: &Expr, fold: &Fold) -> Range {
        let range = self.cost(&fold.range);
        let names = self.names(fold);
        let element = names.first().and_then(|l| Self::declared_size(&l.place).or(l.size));
        let (condition, body, value) = self.with(names, |c| {
            let condition = fold.condition.as_ref().map(|e| c.cost(e));
            (condition, c.cost(&fold.body), c.size(&fold.body))
        });
        let gathered = Range::of(2 + LIST).plus(body);
        let decided = |condition: Range, step: Range| condition.plus(step.or(Range::of(1)));
        // Names and constants of the loop count as what they are; see the expansion of macros in cel-go's parser.
        let (start, each, result) = match fold.kind {
            FoldKind::All => (0, Range { min: 3, max: body.max.saturating_add(3) }, 1),
            FoldKind::Exists => (0, Range { min: 4, max: body.max.saturating_add(4) }, 1),
            FoldKind::ExistsOne => (0, decided(body, Range::of(2)), 2),
            FoldKind::Filter => (LIST, decided(body, Range::of(3 + LIST)), 1),
            FoldKind::Map | FoldKind::TransformList | FoldKind::SortBy => {
                (LIST, condition.map_or(gathered, |condition| decided(condition, gathered)), 1)
            }
            FoldKind::TransformMap | FoldKind::TransformMapEntry => {
                let step = Range::of(if fold.kind == FoldKind::TransformMap { 3 } else { 2 }).plus(body);
                (MAP, condition.map_or(step, |condition| decided(condition, step)), 1)
            }
        };
        let count = self.size(&fold.range);
        let cost = range.plus(Range::of(start + result)).plus(count.times(each));
        match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => drop(self.sizes.insert(expr.id, Range::of(1))),
            kind => {
                self.sizes.insert(expr.id, count);
                let is_list = !matches!(kind, FoldKind::TransformMap | FoldKind::TransformMapEntry);
                let value = if kind == FoldKind::Filter { element.unwrap_or(Range::UNKNOWN) } else { value };
                let entries = Entries { is_list, key: Range { min: 0, max: 1 }, value: value.or(Range::NOTHING) };
                if is_list {
                    self.entries.insert(expr.id, entries);
                }
            }
        }
        match fold.kind {
            FoldKind::SortBy => cost.plus(Range::of(LIST + 1)).plus(self.sorting(count, &self.checked.head(&fold.body))),
            _ => cost,
        }
    }
}
