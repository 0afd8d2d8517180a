//! What calls cost: those that look at all of a text or list by its size, all others one unit.

use super::{Coster, LIST, Place, Range, TRAVERSAL};
use crate::declarations::Overload;
use crate::syntax::{Expr, Node};
use crate::types::Type;
use crate::value::Value;

/// A part of a regular expression is taken to have four characters.
const REGEX: f64 = 0.25;
/// See upstream's MaxFormatSize and MaxNameFormatRegexSize.
const FORMAT_NAME: u64 = 64;
const FORMAT_REGEX: f64 = 128.0;
/// The bytes of an address.
const ADDRESS: Range = Range { min: 4, max: 16 };

/// What a call costs beside its arguments, and how large its result is where that can be said.
type Estimate = (Range, Option<Range>);

impl Coster<'_> {
    pub(super) fn index(&mut self, expr: &Expr, operand: &Expr, index: &Expr) -> Range {
        let cost = self.cost(operand).plus(self.cost(index)).plus(Range::of(1));
        let step = match (&expr.node, self.checked.head(operand)) {
            (Node::Index { optional: true, .. }, _) => None,
            (_, Type::List(_)) => Some("@items"),
            (_, Type::Map(_)) => Some("@values"),
            // It may be either; the last one counts.
            (_, Type::Dyn) => Some("@values"),
            _ => None,
        };
        if let Some(step) = step {
            let place = self.below(&self.place(operand), step);
            self.places.insert(expr.id, place);
            if let Some(entries) = self.entries(operand) {
                self.sizes.insert(expr.id, entries.value);
            }
        }
        cost
    }

    pub(super) fn call(&mut self, expr: &Expr, function: &str, receiver: bool, args: &[Expr]) -> Range {
        let arguments = args.iter().fold(Range::NOTHING, |sum, arg| sum.plus(self.cost(arg)));
        if function == "dyn" {
            if let [arg] = args {
                self.take_after(expr, arg);
            }
            return arguments.plus(Range::of(1));
        }
        if let ("_+_", [a, b]) = (function, args)
            && let (Some(a), Some(b)) = (self.entries(a), self.entries(b))
        {
            self.entries.insert(expr.id, a.or(b));
        }
        let overloads = self.checked.overloads.get(&expr.id).cloned().unwrap_or_default();
        let estimates: Vec<Estimate> = overloads.into_iter().map(|o| self.estimate(function, receiver, args, o)).collect();
        let cost = estimates.iter().map(|(cost, _)| *cost).reduce(Range::or).unwrap_or(Range::NOTHING);
        if let Some(size) = estimates.iter().filter_map(|(_, size)| *size).reduce(Range::or) {
            self.sizes.insert(expr.id, size);
        }
        arguments.plus(cost)
    }

    fn estimate(&mut self, function: &str, receiver: bool, args: &[Expr], overload: &Overload) -> Estimate {
        let found = match args.split_first() {
            Some((first, rest)) if receiver => self.method(function, first, rest, overload),
            _ => self.plain(function, args, overload),
        };
        found.unwrap_or((Range::of(1), None))
    }

    fn method(&mut self, function: &str, target: &Expr, rest: &[Expr], overload: &Overload) -> Option<Estimate> {
        let size = self.size(target);
        let traversal = size.scaled(TRAVERSAL);
        let on_list = matches!(overload.arguments.first(), Some(Type::List(_)));
        Some(match (function, rest) {
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", _) if on_list => {
                (size.times(Range::of(1).plus(self.comparing(target))), None)
            }
            ("indexOf" | "lastIndexOf", _) => (traversal, None),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", _) => (traversal, Some(size)),
            ("replace", [from, to, ..]) => {
                let (from, to) = (self.size(from), self.size(to));
                (size.scaled(2.0 * TRAVERSAL), Some(replaced(size, from, to)))
            }
            ("split", rest) => {
                let limit = rest.get(1).and_then(literal_int).map(|n| n as u64);
                (size.scaled(2.0 * TRAVERSAL), Some(Range { min: 0, max: limit.unwrap_or(size.max) }))
            }
            ("join", rest) => {
                let mut sum = self.element(target).map_or(Range::NOTHING, |(_, element)| size.times(element));
                if let Some(separator) = rest.first() {
                    let between = Range { min: size.min.saturating_sub(1), max: size.max.saturating_sub(1) };
                    sum = sum.plus(self.size(separator).times(between));
                }
                (sum.scaled(TRAVERSAL), Some(sum))
            }
            ("find" | "findAll", [pattern, ..]) => {
                (size.plus(Range::of(1)).scaled(TRAVERSAL).times(self.size(pattern).scaled(REGEX)), Some(Range { min: 0, max: size.max }))
            }
            ("matches", [pattern]) => (size.plus(Range::of(1)).scaled(TRAVERSAL).times(self.size(pattern).scaled(REGEX)), None),
            ("contains", [part]) => (traversal.times(self.size(part).scaled(TRAVERSAL)), None),
            ("startsWith" | "endsWith", [part]) => (self.size(part).scaled(TRAVERSAL), None),
            ("format", _) => (traversal, None),
            ("containsIP", [other]) => (ADDRESS.plus(ADDRESS).scaled(TRAVERSAL).plus(self.reading(other, overload)), None),
            ("containsCIDR", [other]) => {
                let cost = ADDRESS.plus(ADDRESS).scaled(TRAVERSAL).plus(ADDRESS.scaled(TRAVERSAL)).plus(Range::of(1));
                (cost.plus(self.reading(other, overload)), None)
            }
            ("validate", [text]) => (self.size(text).scaled(TRAVERSAL).scaled(FORMAT_REGEX * REGEX), None),
            ("slice", [from, to]) => {
                let end = literal_int(to).map_or(size.max, |n| n as u64);
                allocating(1.0, Range::of(end.wrapping_sub(literal_int(from).unwrap_or(0) as u64)))
            }
            ("flatten", rest) => {
                allocating(rest.first().map_or(1.0, |depth| literal_int(depth).map_or(u64::MAX as f64, |n| n as f64)), size)
            }
            ("reverse", []) if on_list => allocating(1.0, size),
            ("distinct", []) => allocating(2.0, size.times(size)),
            ("sort", []) => {
                let of = overload.arguments.first().and_then(|list| if let Type::List(of) = list { Some((**of).clone()) } else { None });
                (self.sorting(size, &of.unwrap_or(Type::Dyn)), Some(size.times(size)))
            }
            _ => return None,
        })
    }

    fn plain(&mut self, function: &str, args: &[Expr], overload: &Overload) -> Option<Estimate> {
        let text = |ty: Option<&Type>| matches!(ty, Some(Type::Text | Type::Bytes));
        Some(match (function, args) {
            ("url" | "jsonpatch.escapeKey", [arg]) => {
                let size = self.size(arg);
                (size.scaled(TRAVERSAL), Some(size))
            }
            ("cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", [arg, ..]) => {
                (self.size(arg).scaled(TRAVERSAL), None)
            }
            ("ip.isCanonical", [arg]) => (self.size(arg).scaled(2.0 * TRAVERSAL), None),
            ("bytes", [arg]) if text(overload.arguments.first()) && matches!(overload.arguments[0], Type::Text) => {
                let size = self.size(arg);
                (size.scaled(TRAVERSAL), Some(Range { min: size.min, max: size.max.saturating_mul(4) }))
            }
            ("string", [arg]) if matches!(overload.arguments.first(), Some(Type::Bytes)) => {
                let size = self.size(arg);
                (size.scaled(TRAVERSAL), Some(Range { min: size.min / 4, max: size.max }))
            }
            ("strings.quote", [arg]) => {
                let size = self.size(arg);
                let max = size.max.saturating_mul(2).saturating_add(2);
                (size.scaled(TRAVERSAL), Some(Range { min: size.min.saturating_add(2), max }))
            }
            ("@in", [_, list]) if matches!(overload.arguments.get(1), Some(Type::List(_))) => (self.size(list), None),
            ("_+_", [a, b]) if text(Some(&overload.result)) => {
                let size = self.size(a).plus(self.size(b));
                (size.scaled(TRAVERSAL), Some(size))
            }
            ("_+_", [a, b]) if matches!(overload.result, Type::List(_)) => (Range::of(1), Some(self.size(a).plus(self.size(b)))),
            ("_==_", [a, b]) if self.opaque(a, b).is_some() => (self.opaque(a, b)?, None),
            ("_==_" | "_!=_", [a, b]) => (self.shorter(a, b), None),
            ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) if text(overload.arguments.first()) => (self.shorter(a, b), None),
            ("sets.contains" | "sets.intersects", [a, b]) => (self.size(a).times(self.size(b)).plus(Range::of(1)), None),
            ("sets.equivalent", [a, b]) => (self.size(a).times(self.size(b)).scaled(2.0).plus(Range::of(1)), None),
            ("lists.range", [n]) => allocating(1.0, Range::of(literal_int(n).map_or(u64::MAX, |n| n as u64))),
            _ => return None,
        })
    }

    /// Comparing two values costs as much as the shorter of them is long.
    fn shorter(&mut self, a: &Expr, b: &Expr) -> Range {
        let most = self.size(a).max.min(self.size(b).max);
        Range { min: u64::from(most > 0), max: most }.scaled(TRAVERSAL)
    }

    /// What comparing two values of Kubernetes' own types costs.
    fn opaque(&mut self, a: &Expr, b: &Expr) -> Option<Range> {
        let (Type::Named(one, _), Type::Named(other, _)) = (self.checked.head(a), self.checked.head(b)) else { return None };
        if one != other {
            return None;
        }
        Some(match &*one {
            "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => Range::of(1),
            "kubernetes.NamedFormat" => Range { min: 1, max: FORMAT_NAME }.scaled(TRAVERSAL),
            "kubernetes.URL" => Range { min: 1, max: self.known_size(b).map_or(1, |size| size.max) }.scaled(TRAVERSAL),
            _ => return None,
        })
    }

    /// What it costs to read a text that is given instead of an address or network.
    fn reading(&mut self, arg: &Expr, overload: &Overload) -> Range {
        match overload.arguments.get(1) {
            Some(Type::Text) => self.size(arg).scaled(TRAVERSAL),
            _ => Range::NOTHING,
        }
    }

    /// The type and size of the elements of a list.
    fn element(&mut self, list: &Expr) -> Option<(Type, Range)> {
        let Type::List(of) = self.checked.head(list) else { return None };
        let size = match self.place(list) {
            Place::Nowhere => None,
            place => Self::declared_size(&self.below(&place, "@items")),
        };
        Some((self.checked.inner(&of), size.unwrap_or(Range::UNKNOWN)))
    }

    /// What comparing an element of a list costs beyond one unit.
    fn comparing(&mut self, list: &Expr) -> Range {
        match self.element(list) {
            Some((Type::Text | Type::Bytes, size)) => size.scaled(TRAVERSAL),
            _ => Range::NOTHING,
        }
    }

    /// Sorting so many elements of a type.
    pub(super) fn sorting(&self, count: Range, of: &Type) -> Range {
        let factor = if matches!(of, Type::Text | Type::Bytes) { 2.0 + TRAVERSAL } else { 2.0 };
        allocating(factor, count.times(count)).0
    }
}

fn allocating(factor: f64, size: Range) -> Estimate {
    (size.scaled(factor).plus(Range::of(1 + LIST)), Some(size))
}

fn literal_int(expr: &Expr) -> Option<i64> {
    match &expr.node {
        Node::Literal(Value::Int(n)) => Some(*n),
        _ => None,
    }
}

/// The length of a text in which each of some parts became another.
fn replaced(size: Range, from: Range, to: Range) -> Range {
    // Where nothing is replaced, it stands around every character.
    let around = |length: u64, to: u64| length.saturating_add(1).saturating_mul(to).saturating_add(length);
    let max = if from.min == 0 {
        around(size.max, to.max)
    } else if to.max <= from.min {
        size.max
    } else {
        size.max.div_ceil(from.min).saturating_mul(to.max)
    };
    let min = if from.max == 0 {
        around(size.min, to.min)
    } else if from.max <= to.min {
        size.min
    } else {
        size.min.div_ceil(from.max).saturating_mul(to.min)
    };
    Range { min, max }
}
