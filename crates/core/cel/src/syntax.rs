//! The syntax tree. Macros are nodes of their own, so that nothing is expanded.

use crate::value::Value;

pub(crate) type Name = std::sync::Arc<str>;

/// A node with its number, which is unique in its tree, and where it stands in the text, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) id: u32,
    pub(crate) at: u32,
    pub(crate) node: Node,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
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
        match &self.node {
            Node::Literal(_) | Node::Ident(_) => Vec::new(),
            Node::Select { operand, .. } | Node::Has { operand, .. } => vec![operand],
            Node::Index { operand, index, .. } => vec![operand, index],
            Node::Call { args, .. } => args.iter().collect(),
            Node::And(a, b) | Node::Or(a, b) => vec![a, b],
            Node::Conditional(parts) => parts.iter().collect(),
            Node::List(items) => items.iter().map(|(e, _)| e).collect(),
            Node::Map(entries) => entries.iter().flat_map(|(k, v, _)| [k, v]).collect(),
            Node::Message { fields, .. } => fields.iter().map(|(_, e, _)| e).collect(),
            Node::Fold(fold) => vec![&fold.range],
            Node::Bind { value, .. } => vec![value],
            Node::OptMap { operand, .. } => vec![operand],
        }
    }
}

impl Expr {
    /// All parts, also those within macros.
    pub(crate) fn all_parts(&self) -> Vec<&Expr> {
        let mut parts = self.parts();
        match &self.node {
            Node::Fold(fold) => parts.extend(fold.condition.iter().chain([&fold.body])),
            Node::Bind { body, .. } | Node::OptMap { body, .. } => parts.push(body),
            _ => {}
        }
        parts
    }

    /// `a.b.c` where an expression is nothing but names.
    pub(crate) fn qualified(&self) -> Option<String> {
        match &self.node {
            Node::Ident(name) => Some(name.to_string()),
            Node::Select { operand, field, optional: false } => Some(format!("{}.{field}", operand.qualified()?)),
            _ => None,
        }
    }

    /// Whether an expression is this name, with its dots.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        match &self.node {
            Node::Ident(ident) => **ident == *name,
            Node::Select { operand, field, optional: false } => {
                let before = name.strip_suffix(&**field).and_then(|rest| rest.strip_suffix('.'));
                before.is_some_and(|rest| operand.is_called(rest))
            }
            _ => false,
        }
    }

    /// Whether a variable occurs anywhere, as itself and not as a name that a macro binds.
    pub(crate) fn mentions(&self, variable: &str) -> bool {
        let below = |part: &Expr| part.mentions(variable);
        let inner = match &self.node {
            Node::Ident(name) => return &**name == variable,
            Node::Fold(fold) if ![Some(&fold.first), fold.second.as_ref()].into_iter().flatten().any(|name| **name == *variable) => {
                below(&fold.body) || fold.condition.as_ref().is_some_and(below)
            }
            Node::Bind { name, body, .. } | Node::OptMap { name, body, .. } if **name != *variable => below(body),
            _ => false,
        };
        inner || self.parts().into_iter().any(below)
    }
}
