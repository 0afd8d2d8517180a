//! Which types go together: parameters of functions are bound to what they are first given, and to what is more general where
//! that comes later. See the section on type checking of cel-spec's language definition.

use std::sync::Arc;

use crate::types::Type;

/// How many steps the types of one expression may take; types can be far larger than the text that makes them.
const FUEL: u32 = 2_000_000;

/// What the parameters are bound to.
pub(crate) struct Bindings {
    bound: Vec<Option<Type>>,
    /// What was changed, so that an overload that does not fit leaves nothing behind.
    trail: Vec<(u32, Option<Type>)>,
    fuel: u32,
}

impl Bindings {
    pub(crate) fn new() -> Self {
        Self { bound: Vec::new(), trail: Vec::new(), fuel: FUEL }
    }

    /// Whether the types were too large to look at all of them.
    pub(crate) fn is_spent(&self) -> bool {
        self.fuel == 0
    }

    fn step(&mut self) -> bool {
        self.fuel = self.fuel.saturating_sub(1);
        self.fuel > 0
    }

    pub(crate) fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Param(self.bound.len() as u32 - 1)
    }

    /// The type of a signature with parameters of its own, which begin at a number.
    pub(crate) fn instance(&mut self, ty: &Type, from: u32) -> Type {
        let mut below = |ty: &Type| self.instance(ty, from);
        match ty {
            Type::Param(i) => {
                let i = from + i;
                while self.bound.len() <= i as usize {
                    self.bound.push(None);
                }
                Type::Param(i)
            }
            Type::List(of) => Type::list(below(of)),
            Type::Map(pair) => Type::map(below(&pair.0), below(&pair.1)),
            Type::Named(name, parameters) => Type::Named(name.clone(), parameters.iter().map(below).collect()),
            Type::Type(Some(of)) => Type::Type(Some(Arc::new(below(of)))),
            other => other.clone(),
        }
    }

    /// The number that the next parameter gets.
    pub(crate) fn next(&self) -> u32 {
        self.bound.len() as u32
    }

    fn bind(&mut self, param: u32, ty: Type) {
        let before = self.bound[param as usize].replace(ty);
        self.trail.push((param, before));
    }

    /// The last parameter of a chain, and what it is bound to.
    fn root(&self, mut param: u32) -> (u32, Option<&Type>) {
        loop {
            match &self.bound[param as usize] {
                Some(Type::Param(next)) if *next != param => param = *next,
                bound => return (param, bound.as_ref()),
            }
        }
    }

    /// A type with its outermost parameter replaced by what that is bound to.
    pub(crate) fn head(&self, ty: &Type) -> Type {
        match ty {
            Type::Param(i) => match self.root(*i) {
                (_, Some(bound)) => bound.clone(),
                (root, None) => Type::Param(root),
            },
            other => other.clone(),
        }
    }

    /// A type with all parameters replaced; `dyn` for what was never found out.
    pub(crate) fn settled(&mut self, ty: &Type) -> Type {
        if !self.step() {
            return Type::Dyn;
        }
        match self.head(ty) {
            Type::Param(_) => Type::Dyn,
            Type::List(of) => Type::list(self.settled(&of)),
            Type::Map(pair) => Type::map(self.settled(&pair.0), self.settled(&pair.1)),
            Type::Named(name, parameters) => Type::Named(name, parameters.iter().map(|p| self.settled(p)).collect()),
            Type::Type(Some(of)) => Type::Type(Some(Arc::new(self.settled(&of)))),
            other => other,
        }
    }

    /// Whether all of some types can be given for others; nothing is bound where they cannot.
    pub(crate) fn all_assignable(&mut self, given: &[Type], wanted: &[Type]) -> bool {
        self.trail.clear();
        let fits = given.len() == wanted.len() && given.iter().zip(wanted).all(|(g, w)| self.fits(g, w));
        if !fits {
            while let Some((param, before)) = self.trail.pop() {
                self.bound[param as usize] = before;
            }
        }
        fits
    }

    pub(crate) fn assignable(&mut self, given: &Type, wanted: &Type) -> bool {
        self.all_assignable(std::slice::from_ref(given), std::slice::from_ref(wanted))
    }

    fn fits(&mut self, given: &Type, wanted: &Type) -> bool {
        if !self.step() {
            return false;
        }
        if let Type::Param(param) = wanted
            && let Some(decided) = self.fits_param(given, *param)
        {
            return decided;
        }
        if let Type::Param(param) = given {
            return self.fits_param(wanted, *param).unwrap_or(false);
        }
        match (given, wanted) {
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::Null, other) | (other, Type::Null) => is_nullable(other),
            (Type::List(a), Type::List(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (Type::Named(a, pa), Type::Named(b, pb)) => {
                a == b && pa.len() == pb.len() && pa.iter().zip(&**pb).all(|(a, b)| self.fits(a, b))
            }
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// Whether a type can be what a parameter stands for; None where that would be part of itself.
    fn fits_param(&mut self, ty: &Type, param: u32) -> Option<bool> {
        let (root, bound) = self.root(param);
        let bound = bound.cloned();
        if matches!(ty, Type::Param(other) if self.root(*other).0 == root) {
            return Some(true);
        }
        match bound {
            Some(bound) => {
                if !self.fits(ty, &bound) {
                    return Some(false);
                }
                let general = if self.is_less_specific(ty, &bound) { ty.clone() } else { bound };
                if !self.occurs(root, &general) {
                    self.bind(root, general);
                }
                Some(true)
            }
            None if self.occurs(root, ty) => None,
            None => {
                self.bind(root, ty.clone());
                Some(true)
            }
        }
    }

    fn occurs(&mut self, param: u32, within: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match self.head(within) {
            Type::Param(other) => other == param,
            Type::List(of) => self.occurs(param, &of),
            Type::Map(pair) => self.occurs(param, &pair.0) || self.occurs(param, &pair.1),
            Type::Named(_, parameters) => parameters.iter().any(|p| self.occurs(param, p)),
            Type::Type(Some(of)) => self.occurs(param, &of),
            _ => false,
        }
    }

    /// Of two types that go together: whether the first says no more than the second.
    fn is_less_specific(&mut self, a: &Type, b: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match (a, b) {
            (Type::Dyn | Type::Param(_), _) => true,
            (_, Type::Dyn | Type::Param(_)) => false,
            // What can be null says more than null does.
            (Type::Null, other) => matches!(other, Type::Null),
            (_, Type::Null) => true,
            (Type::List(a), Type::List(b)) => self.is_less_specific(a, b),
            (Type::Map(a), Type::Map(b)) => self.is_less_specific(&a.0, &b.0) && self.is_less_specific(&a.1, &b.1),
            (Type::Named(_, a), Type::Named(_, b)) => a.iter().zip(&**b).all(|(a, b)| self.is_less_specific(a, b)),
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// Whether two types are one and the same.
    pub(crate) fn same(&mut self, a: &Type, b: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match (self.head(a), self.head(b)) {
            (Type::Param(a), Type::Param(b)) => a == b,
            (Type::List(a), Type::List(b)) => self.same(&a, &b),
            (Type::Map(a), Type::Map(b)) => self.same(&a.0, &b.0) && self.same(&a.1, &b.1),
            (Type::Named(a, pa), Type::Named(b, pb)) => a == b && pa.len() == pb.len() && pa.iter().zip(&*pb).all(|(a, b)| self.same(a, b)),
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (a, b) => std::mem::discriminant(&a) == std::mem::discriminant(&b),
        }
    }

    /// The type of something that is either of two; None where they do not go together.
    pub(crate) fn join(&mut self, a: &Type, b: &Type) -> Option<Type> {
        if !self.assignable(a, b) {
            return None;
        }
        Some(if self.is_less_specific(a, b) { a.clone() } else { b.clone() })
    }
}

/// Messages, times and what is opaque can be null, as they always could.
fn is_nullable(ty: &Type) -> bool {
    matches!(ty, Type::Null | Type::Named(..) | Type::Object(_) | Type::Timestamp | Type::Duration)
}
