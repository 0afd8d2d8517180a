//! The syntax tree. Macros are nodes of their own, so that nothing is expanded.

use crate::value::Value;

pub(crate) type Name = std::sync::Arc<str>;

#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Literal(Value),
    Ident(Name),
    /// `operand.field`, or `operand.?field`.
    Select {
        operand: Box<Expr>,
        field: Name,
        optional: bool,
    },
    /// `has(operand.field)`
    Has {
        operand: Box<Expr>,
        field: Name,
    },
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    /// A function or operator; the receiver is the first argument.
    Call {
        function: Name,
        receiver: bool,
        args: Vec<Expr>,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Conditional(Box<[Expr; 3]>),
    /// Elements, and whether each is left out where it is an empty optional.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    /// `Name{field: value}`; a field is left out where it is an empty optional.
    Message {
        name: Name,
        fields: Vec<(Name, Expr, bool)>,
    },
    Fold(Box<Fold>),
    /// `cel.bind(name, value, body)`
    Bind {
        name: Name,
        value: Box<Expr>,
        body: Box<Expr>,
    },
    /// `optional.optMap(name, body)` and `optFlatMap`
    OptMap {
        operand: Box<Expr>,
        name: Name,
        body: Box<Expr>,
        flat: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
    SortBy,
}

/// A macro over the elements of a list or map.
#[derive(Debug, Clone)]
pub(crate) struct Fold {
    pub(crate) kind: FoldKind,
    pub(crate) range: Expr,
    /// The element; with `second` the index or key.
    pub(crate) first: Name,
    pub(crate) second: Option<Name>,
    pub(crate) condition: Option<Expr>,
    pub(crate) body: Expr,
}

impl Expr {
    /// The direct parts of an expression, outside of macros that bind names.
    pub(crate) fn parts(&self) -> Vec<&Expr> {
        match self {
            Expr::Literal(_) | Expr::Ident(_) => Vec::new(),
            Expr::Select { operand, .. } | Expr::Has { operand, .. } => vec![operand],
            Expr::Index { operand, index, .. } => vec![operand, index],
            Expr::Call { args, .. } => args.iter().collect(),
            Expr::And(a, b) | Expr::Or(a, b) => vec![a, b],
            Expr::Conditional(parts) => parts.iter().collect(),
            Expr::List(items) => items.iter().map(|(e, _)| e).collect(),
            Expr::Map(entries) => entries.iter().flat_map(|(k, v, _)| [k, v]).collect(),
            Expr::Message { fields, .. } => fields.iter().map(|(_, e, _)| e).collect(),
            Expr::Fold(fold) => vec![&fold.range],
            Expr::Bind { value, .. } => vec![value],
            Expr::OptMap { operand, .. } => vec![operand],
        }
    }
}
