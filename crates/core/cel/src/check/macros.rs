//! The types of macros: what their names are bound to, and what they make.

use crate::syntax::{Expr, Fold, FoldKind, Name};
use crate::types::Type;

use super::Checker;

impl Checker<'_> {
    /// The key or index and the element of what a macro runs over.
    fn range(&mut self, expr: &Expr) -> (Type, Type) {
        let range = self.expr(expr);
        match self.bindings.head(&range) {
            Type::List(of) => (Type::Int, (*of).clone()),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            open @ Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, &open);
                (Type::Dyn, Type::Dyn)
            }
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            other => {
                let other = self.bindings.settled(&other);
                let message = format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)");
                self.issue(expr.at, message);
                (Type::Error, Type::Error)
            }
        }
    }

    pub(super) fn fold(&mut self, expr: &Expr, fold: &Fold) -> Type {
        let (key, element) = self.range(&fold.range);
        let range = self.types[fold.range.id as usize].clone();
        let is_map = matches!(self.bindings.head(&range), Type::Map(_));
        let single = if is_map { key.clone() } else { element.clone() };
        let names = match &fold.second {
            Some(second) => vec![(&fold.first, key.clone()), (second, element)],
            None => vec![(&fold.first, single.clone())],
        };
        let (condition, body) = self.within(&names, |c| (fold.condition.as_ref().map(|e| c.expr(e)), c.expr(&fold.body)));
        let made = match fold.kind {
            FoldKind::All | FoldKind::Exists => {
                self.is_bool(&fold.body, &body);
                return Type::Bool;
            }
            FoldKind::ExistsOne => {
                self.choice(expr, &body, &Type::Int);
                return Type::Bool;
            }
            FoldKind::Filter => {
                let made = Type::list(single);
                self.choice(expr, &body, &made);
                return made;
            }
            FoldKind::Map | FoldKind::TransformList => Type::list(body),
            FoldKind::TransformMap => Type::map(key, body),
            FoldKind::TransformMapEntry => {
                let entry = Type::map(self.bindings.fresh(), self.bindings.fresh());
                if !self.bindings.assignable(&body, &entry) {
                    let message = self.no_overload("cel.@mapInsert", false, &[entry.clone(), body]);
                    self.issue(expr.at, message);
                }
                entry
            }
            FoldKind::SortBy => {
                let list = Type::list(single);
                self.call(expr, "@sortByAssociatedKeys", true, &[list.clone(), Type::list(body)]);
                return list;
            }
        };
        if let Some(condition) = condition {
            self.choice(expr, &condition, &made);
        }
        made
    }

    /// What decides about an element has to be a bool.
    fn choice(&mut self, expr: &Expr, condition: &Type, made: &Type) {
        if !self.bindings.assignable(condition, &Type::Bool) {
            let message = self.no_overload("_?_:_", false, &[condition.clone(), made.clone(), made.clone()]);
            self.issue(expr.at, message);
        }
    }

    pub(super) fn opt_map(&mut self, expr: &Expr, operand: &Expr, name: &Name, body: &Expr, flat: bool) -> Type {
        let operand = self.expr(operand);
        let inside = self.bindings.fresh();
        if !self.bindings.assignable(&operand, &Type::optional(inside.clone())) {
            let message = self.no_overload("hasValue", true, &[operand]);
            self.issue(expr.at, message);
        }
        let made = self.within(&[(name, inside)], |c| c.expr(body));
        if !flat {
            return Type::optional(made);
        }
        let nothing = Type::optional(self.bindings.fresh());
        if !self.bindings.assignable(&made, &nothing) {
            let message = self.no_overload("_?_:_", false, &[Type::Bool, made.clone(), nothing]);
            self.issue(expr.at, message);
        }
        made
    }
}
