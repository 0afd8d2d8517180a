//! From text to a syntax tree; see the language definition of cel-spec.

mod lexer;

use crate::declarations;
use crate::syntax::{Expr, Fold, FoldKind, Name, Node};
use crate::value::Value;
use lexer::{Lexer, Token};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ParseError {
    /// In bytes.
    pub(crate) at: usize,
    pub(crate) message: String,
}

/// Expressions that are nested deeper are refused.
const MAX_DEPTH: usize = 100;
/// Trees that are higher are refused: they are walked by recursion, and `1+1+1` is a tree of height three without any nesting.
const MAX_HEIGHT: usize = 250;
/// Longer ones as well; see upstream's limit of expressions.
const MAX_LENGTH: usize = 100_000;

/// Words that are no identifiers, beside `true`, `false`, `null` and `in`; see the language's definition.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The tree of an expression, and how many nodes it has.
pub(crate) fn parse(text: &str) -> Result<(Expr, u32), ParseError> {
    let mut lexer = Lexer::new(text);
    if text.len() > MAX_LENGTH {
        return lexer.error(0, "expression code point size exceeds limit");
    }
    let (token, start) = lexer.next()?;
    let mut parser = Parser { lexer, token, start, depth: 0, height: 0, count: 0 };
    let expr = parser.expr()?;
    match parser.token {
        Token::End => Ok((expr, parser.count)),
        _ => parser.unexpected(),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token,
    start: usize,
    depth: usize,
    /// Of the expression that was read last.
    height: usize,
    /// How many nodes there are.
    count: u32,
}

fn call(function: &str, args: Vec<Expr>) -> Node {
    Node::Call { function: function.into(), receiver: false, args }
}

impl Parser<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        self.lexer.error(self.start, message)
    }

    fn node(&mut self, at: usize, node: Node) -> Expr {
        self.count += 1;
        Expr { id: self.count - 1, at: at as u32, node }
    }

    /// A tree of operands and the signs between them that is as low as can be; upstream's parser balances them too.
    fn balanced(&mut self, mut parts: Vec<Expr>, signs: &[usize], join: fn(Box<Expr>, Box<Expr>) -> Node) -> Result<Expr, ParseError> {
        let (mut width, first) = (1, parts.first().map_or(self.start, |p| p.at as usize));
        while parts.len() > 1 {
            let mut next = Vec::with_capacity(parts.len().div_ceil(2));
            let mut pairs = parts.into_iter();
            while let Some(left) = pairs.next() {
                next.push(match pairs.next() {
                    Some(right) => {
                        // The sign before the first operand of the right side.
                        let sign = signs.get((2 * next.len() + 1) * width - 1).copied().unwrap_or(first);
                        self.node(sign, join(Box::new(left), Box::new(right)))
                    }
                    None => left,
                });
            }
            parts = next;
            width *= 2;
        }
        match parts.pop() {
            Some(expr) => Ok(expr),
            None => self.unexpected(),
        }
    }

    /// A tree was made of parts of which the highest is so high.
    fn grown(&mut self, highest: usize) -> Result<(), ParseError> {
        self.height = highest + 1;
        if self.height > MAX_HEIGHT { self.fail("expression recursion limit exceeded") } else { Ok(()) }
    }

    /// The tree that `balanced` makes of operands between signs.
    fn operands(
        &mut self,
        sign: &str,
        operand: fn(&mut Self) -> Result<Expr, ParseError>,
        join: fn(Box<Expr>, Box<Expr>) -> Node,
    ) -> Result<Expr, ParseError> {
        let mut parts = vec![operand(self)?];
        let mut signs = Vec::new();
        let mut highest = self.height;
        while self.is(sign) {
            signs.push(self.start);
            self.advance()?;
            parts.push(operand(self)?);
            highest = highest.max(self.height);
        }
        self.grown(highest + parts.len().next_power_of_two().ilog2() as usize)?;
        self.balanced(parts, &signs, join)
    }

    fn unexpected<T>(&self) -> Result<T, ParseError> {
        let what = match &self.token {
            Token::End => "<EOF>".to_string(),
            Token::Sign(sign) => sign.to_string(),
            Token::Ident(name) => name.clone(),
            other => format!("{other:?}"),
        };
        self.fail(format!("mismatched input '{what}'"))
    }

    fn advance(&mut self) -> Result<Token, ParseError> {
        let (token, start) = self.lexer.next()?;
        self.start = start;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.token, Token::Sign(s) if s == sign)
    }

    /// Takes a sign if it is next.
    fn eat(&mut self, sign: &str) -> Result<bool, ParseError> {
        let found = self.is(sign);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, sign: &str) -> Result<(), ParseError> {
        if self.eat(sign)? { Ok(()) } else { self.unexpected() }
    }

    fn expr(&mut self) -> Result<Expr, ParseError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("expression recursion limit exceeded");
        }
        let condition = self.or()?;
        let at = self.start;
        let expr = if self.eat("?")? {
            let mut highest = self.height;
            let yes = self.or()?;
            highest = highest.max(self.height);
            self.expect(":")?;
            let no = self.expr()?;
            self.grown(highest.max(self.height))?;
            self.node(at, Node::Conditional(Box::new([condition, yes, no])))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn or(&mut self) -> Result<Expr, ParseError> {
        self.operands("||", Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Expr, ParseError> {
        self.operands("&&", Self::relation, Node::And)
    }

    fn relation(&mut self) -> Result<Expr, ParseError> {
        const SIGNS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];
        let mut left = self.sum()?;
        loop {
            let function = match &self.token {
                Token::Sign(sign) if SIGNS.contains(sign) => format!("_{sign}_"),
                Token::Ident(name) if name == "in" => "@in".to_string(),
                _ => return Ok(left),
            };
            let at = self.start;
            self.advance()?;
            let height = self.height;
            let right = self.sum()?;
            left = self.node(at, call(&function, vec![left, right]));
            self.grown(height.max(self.height))?;
        }
    }

    fn sum(&mut self) -> Result<Expr, ParseError> {
        let mut left = self.product()?;
        while let Some(sign) = ["+", "-"].into_iter().find(|s| self.is(s)) {
            let at = self.start;
            self.advance()?;
            let height = self.height;
            let right = self.product()?;
            left = self.node(at, call(&format!("_{sign}_"), vec![left, right]));
            self.grown(height.max(self.height))?;
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Expr, ParseError> {
        let mut left = self.unary()?;
        while let Some(sign) = ["*", "/", "%"].into_iter().find(|s| self.is(s)) {
            let at = self.start;
            self.advance()?;
            let height = self.height;
            let right = self.unary()?;
            left = self.node(at, call(&format!("_{sign}_"), vec![left, right]));
            self.grown(height.max(self.height))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, ParseError> {
        let Some(sign) = ["!", "-"].into_iter().find(|s| self.is(s)) else { return self.member() };
        let at = self.start;
        let mut count = 0usize;
        while self.eat(sign)? {
            count += 1;
        }
        if sign == "-" {
            let literal = match self.token {
                Token::Int(i) => Some(Value::Int(-i)),
                Token::IntMin => Some(Value::Int(i64::MIN)),
                Token::Double(d) => Some(Value::Double(-d)),
                _ => None,
            };
            if let Some(literal) = literal {
                self.advance()?;
                self.height = 1;
                count -= 1;
                let literal = self.node(at, Node::Literal(literal));
                let operand = self.postfix(literal)?;
                return Ok(if count % 2 == 1 { self.node(at, call("-_", vec![operand])) } else { operand });
            }
        }
        let operand = self.member()?;
        let function = if sign == "!" { "!_" } else { "-_" };
        Ok(if count % 2 == 1 { self.node(at, call(function, vec![operand])) } else { operand })
    }

    fn member(&mut self) -> Result<Expr, ParseError> {
        let primary = self.primary()?;
        self.postfix(primary)
    }

    fn postfix(&mut self, mut operand: Expr) -> Result<Expr, ParseError> {
        let mut height = self.height;
        loop {
            let at = self.start;
            if self.eat(".")? {
                let optional = self.eat("?")?;
                let quoted = matches!(self.token, Token::Quoted(_));
                let field = match self.advance()? {
                    Token::Ident(name) if name != "in" => name,
                    Token::Quoted(name) => name,
                    _ => return self.unexpected(),
                };
                self.height = 0;
                let open = self.start;
                operand = if !quoted && !optional && self.eat("(")? {
                    let args = self.args(")")?;
                    let made = self.method(operand, &field, args)?;
                    self.node(open, made)
                } else {
                    self.node(at, Node::Select { operand: Box::new(operand), field: field.into(), optional })
                };
            } else if self.eat("[")? {
                let optional = self.eat("?")?;
                let index = Box::new(self.expr()?);
                self.expect("]")?;
                operand = self.node(at, Node::Index { operand: Box::new(operand), index, optional });
            } else if self.is("{") {
                let Some(name) = operand.qualified() else { return self.unexpected() };
                self.advance()?;
                let fields = self.fields()?;
                operand = self.node(at, Node::Message { name: name.into(), fields });
            } else {
                self.height = height;
                return Ok(operand);
            }
            self.grown(height.max(self.height))?;
            height = self.height;
        }
    }

    fn args(&mut self, end: &str) -> Result<Vec<Expr>, ParseError> {
        let (mut args, mut highest) = (Vec::new(), 0);
        while !self.eat(end)? {
            args.push(self.expr()?);
            highest = highest.max(self.height);
            if !self.is(end) {
                self.expect(",")?;
            }
        }
        self.height = highest;
        Ok(args)
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        let literal = match &self.token {
            Token::Int(i) => Value::Int(*i),
            Token::Uint(u) => Value::Uint(*u),
            Token::Double(d) => Value::Double(*d),
            Token::Text(text) => Value::from(text.as_str()),
            Token::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
            Token::Ident(name) if name == "true" => Value::Bool(true),
            Token::Ident(name) if name == "false" => Value::Bool(false),
            Token::Ident(name) if name == "null" => Value::Null,
            Token::Ident(_) => return self.identifier(),
            Token::Sign("(") => {
                self.advance()?;
                let inner = self.expr()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => return self.list(),
            Token::Sign("{") => return self.map(),
            // A leading dot means the root; there is no container here.
            Token::Sign(".") => {
                self.advance()?;
                return self.identifier();
            }
            _ => return self.unexpected(),
        };
        let at = self.start;
        self.advance()?;
        self.height = 1;
        Ok(self.node(at, Node::Literal(literal)))
    }

    fn identifier(&mut self) -> Result<Expr, ParseError> {
        let Token::Ident(name) = &self.token else { return self.unexpected() };
        let name = name.clone();
        if RESERVED.contains(&name.as_str()) || name == "in" {
            return self.fail(format!("reserved identifier: {name}"));
        }
        let start = self.start;
        self.advance()?;
        self.height = 1;
        let open = self.start;
        if !self.eat("(")? {
            return Ok(self.node(start, Node::Ident(name.into())));
        }
        let mut args = self.args(")")?;
        self.grown(self.height)?;
        if name == "has" {
            return match args.pop().map(|arg| arg.node) {
                Some(Node::Select { operand, field, optional: false }) if args.is_empty() => {
                    Ok(self.node(open, Node::Has { operand, field }))
                }
                _ => self.fail("invalid argument to has() macro"),
            };
        }
        Ok(self.node(open, call(&name, args)))
    }

    fn list(&mut self) -> Result<Expr, ParseError> {
        let at = self.start;
        self.advance()?;
        let (mut items, mut highest) = (Vec::new(), 0);
        while !self.eat("]")? {
            let optional = self.eat("?")?;
            items.push((self.expr()?, optional));
            highest = highest.max(self.height);
            if !self.is("]") {
                self.expect(",")?;
            }
        }
        self.grown(highest)?;
        Ok(self.node(at, Node::List(items)))
    }

    fn map(&mut self) -> Result<Expr, ParseError> {
        let at = self.start;
        self.advance()?;
        let (mut entries, mut highest) = (Vec::new(), 0);
        while !self.eat("}")? {
            let optional = self.eat("?")?;
            let key = self.expr()?;
            highest = highest.max(self.height);
            self.expect(":")?;
            entries.push((key, self.expr()?, optional));
            highest = highest.max(self.height);
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        self.grown(highest)?;
        Ok(self.node(at, Node::Map(entries)))
    }

    /// The fields of a message, behind its opening brace.
    fn fields(&mut self) -> Result<Vec<(Name, Expr, bool)>, ParseError> {
        let mut fields: Vec<(Name, Expr, bool)> = Vec::new();
        let mut highest = 0;
        while !self.eat("}")? {
            let optional = self.eat("?")?;
            let name = match self.advance()? {
                Token::Ident(name) | Token::Quoted(name) => name,
                _ => return self.unexpected(),
            };
            if fields.iter().any(|(n, ..)| **n == *name) {
                return self.fail(format!("duplicate field '{name}'"));
            }
            self.expect(":")?;
            fields.push((name.into(), self.expr()?, optional));
            highest = highest.max(self.height);
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        self.height = highest;
        Ok(fields)
    }

    /// A call with a receiver: a macro, a function of a namespace, or a method.
    fn method(&mut self, operand: Expr, name: &str, mut args: Vec<Expr>) -> Result<Node, ParseError> {
        if let Some(kind) = fold_kind(name, args.len()) {
            return self.fold(kind, operand, args);
        }
        if let (Node::Ident(namespace), "bind", 3) = (&operand.node, name, args.len())
            && &**namespace == "cel"
        {
            let name = self.variable(&args[0])?;
            let body = Box::new(args.remove(2));
            return Ok(Node::Bind { name, value: Box::new(args.remove(1)), body });
        }
        if matches!(name, "optMap" | "optFlatMap") && args.len() == 2 {
            let variable = self.variable(&args[0])?;
            let body = Box::new(args.remove(1));
            return Ok(Node::OptMap { operand: Box::new(operand), name: variable, body, flat: name == "optFlatMap" });
        }
        if let Some(whole) = namespaced(&operand, name) {
            return Ok(call(&whole, args));
        }
        args.insert(0, operand);
        Ok(Node::Call { function: name.into(), receiver: true, args })
    }

    fn variable(&self, expr: &Expr) -> Result<Name, ParseError> {
        match &expr.node {
            Node::Ident(name) => Ok(name.clone()),
            _ => self.fail("argument must be a simple name"),
        }
    }

    fn fold(&mut self, kind: FoldKind, range: Expr, mut args: Vec<Expr>) -> Result<Node, ParseError> {
        let two = match kind {
            FoldKind::TransformList | FoldKind::TransformMap | FoldKind::TransformMapEntry => true,
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => args.len() == 3,
            FoldKind::Map | FoldKind::Filter | FoldKind::SortBy => false,
        };
        let first = self.variable(&args[0])?;
        let second = if two { Some(self.variable(&args[1])?) } else { None };
        if second.as_ref() == Some(&first) {
            return self.fail("duplicate variable name");
        }
        let body = args.pop();
        let Some(body) = body else { return self.unexpected() };
        let condition = (args.len() > 1 + usize::from(two)).then(|| args.pop()).flatten();
        Ok(Node::Fold(Box::new(Fold { kind, range, first, second, condition, body })))
    }
}

fn fold_kind(name: &str, args: usize) -> Option<FoldKind> {
    Some(match (name, args) {
        ("all", 2 | 3) => FoldKind::All,
        ("exists", 2 | 3) => FoldKind::Exists,
        ("exists_one", 2) | ("existsOne", 2 | 3) => FoldKind::ExistsOne,
        ("map", 2 | 3) => FoldKind::Map,
        ("filter", 2) => FoldKind::Filter,
        ("transformList", 3 | 4) => FoldKind::TransformList,
        ("transformMap", 3 | 4) => FoldKind::TransformMap,
        ("transformMapEntry", 3 | 4) => FoldKind::TransformMapEntry,
        ("sortBy", 2) => FoldKind::SortBy,
        _ => return None,
    })
}

/// The name of a function of a namespace, as `math.greatest`.
fn namespaced(operand: &Expr, name: &str) -> Option<String> {
    let Node::Ident(namespace) = &operand.node else { return None };
    Some(format!("{namespace}.{name}")).filter(|whole| declarations::is_known(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_that_are_too_high_are_refused_however_they_are_written() {
        for text in [
            format!("1{}", "+1".repeat(10_000)),
            format!("a{}", ".b".repeat(10_000)),
            format!("a{}", "[0]".repeat(10_000)),
            format!("{}1{}", "(".repeat(300), ")".repeat(300)),
            format!("{}1", "1 < ".repeat(10_000)),
            format!("a{}", ".map(x, x)".repeat(1_000)),
            format!("{}1{}", "[".repeat(250), "]".repeat(250)),
        ] {
            let message = parse(&text).unwrap_err().message;
            assert!(message.ends_with("expression recursion limit exceeded"), "{}", &text[..40]);
        }
        assert!(parse(&format!("a{}", " || a".repeat(10_000))).is_ok());
        assert!(parse(&format!("1{}", "+1".repeat(240))).is_ok());
    }
}
