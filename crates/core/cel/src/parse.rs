//! From text to a syntax tree; see the language definition of cel-spec.

mod lexer;

use crate::check::qualified;
use crate::syntax::{Expr, Fold, FoldKind, Name};
use crate::value::Value;
use lexer::{Lexer, Token};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// Expressions that are nested deeper are refused.
const MAX_DEPTH: usize = 100;
/// Trees that are higher are refused: they are walked by recursion, and `1+1+1` is a tree of height three without any nesting.
const MAX_HEIGHT: usize = 250;
/// Longer ones as well; see upstream's limit of expressions.
const MAX_LENGTH: usize = 100_000;

const RESERVED: [&str; 16] = [
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
];

pub(crate) fn parse(text: &str) -> Result<Expr, ParseError> {
    let mut lexer = Lexer::new(text);
    if text.len() > MAX_LENGTH {
        return lexer.error(0, "expression code point size exceeds limit");
    }
    let (token, start) = lexer.next()?;
    let mut parser = Parser { lexer, token, start, depth: 0, height: 0 };
    let expr = parser.expr()?;
    match parser.token {
        Token::End => Ok(expr),
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
}

/// A tree of `parts` in their order that is as low as can be; upstream's parser balances them too.
fn balanced(mut parts: Vec<Expr>, join: fn(Box<Expr>, Box<Expr>) -> Expr) -> Expr {
    while parts.len() > 1 {
        let mut next = Vec::with_capacity(parts.len().div_ceil(2));
        let mut pairs = parts.into_iter();
        while let Some(left) = pairs.next() {
            next.push(match pairs.next() {
                Some(right) => join(Box::new(left), Box::new(right)),
                None => left,
            });
        }
        parts = next;
    }
    parts.pop().unwrap_or(Expr::Literal(Value::Null))
}

fn call(function: &str, args: Vec<Expr>) -> Expr {
    Expr::Call { function: function.into(), receiver: false, args }
}

impl Parser<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        self.lexer.error(self.start, message)
    }

    /// A tree was made of parts of which the highest is so high.
    fn grown(&mut self, highest: usize) -> Result<(), ParseError> {
        self.height = highest + 1;
        if self.height > MAX_HEIGHT { self.fail("expression recursion limit exceeded") } else { Ok(()) }
    }

    /// Operands between signs, and the height of the tree that `balanced` makes of them.
    fn operands(&mut self, sign: &str, operand: fn(&mut Self) -> Result<Expr, ParseError>) -> Result<Vec<Expr>, ParseError> {
        let mut parts = vec![operand(self)?];
        let mut highest = self.height;
        while self.eat(sign)? {
            parts.push(operand(self)?);
            highest = highest.max(self.height);
        }
        self.grown(highest + parts.len().next_power_of_two().ilog2() as usize)?;
        Ok(parts)
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
        let expr = if self.eat("?")? {
            let mut highest = self.height;
            let yes = self.or()?;
            highest = highest.max(self.height);
            self.expect(":")?;
            let no = self.expr()?;
            self.grown(highest.max(self.height))?;
            Expr::Conditional(Box::new([condition, yes, no]))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn or(&mut self) -> Result<Expr, ParseError> {
        Ok(balanced(self.operands("||", Self::and)?, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, ParseError> {
        Ok(balanced(self.operands("&&", Self::relation)?, Expr::And))
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
            self.advance()?;
            let height = self.height;
            left = call(&function, vec![left, self.sum()?]);
            self.grown(height.max(self.height))?;
        }
    }

    fn sum(&mut self) -> Result<Expr, ParseError> {
        let mut left = self.product()?;
        while let Some(sign) = ["+", "-"].into_iter().find(|s| self.is(s)) {
            self.advance()?;
            let height = self.height;
            left = call(&format!("_{sign}_"), vec![left, self.product()?]);
            self.grown(height.max(self.height))?;
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Expr, ParseError> {
        let mut left = self.unary()?;
        while let Some(sign) = ["*", "/", "%"].into_iter().find(|s| self.is(s)) {
            self.advance()?;
            let height = self.height;
            left = call(&format!("_{sign}_"), vec![left, self.unary()?]);
            self.grown(height.max(self.height))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, ParseError> {
        let Some(sign) = ["!", "-"].into_iter().find(|s| self.is(s)) else { return self.member() };
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
                let operand = self.postfix(Expr::Literal(literal))?;
                return Ok(if count % 2 == 1 { call("-_", vec![operand]) } else { operand });
            }
        }
        let operand = self.member()?;
        let function = if sign == "!" { "!_" } else { "-_" };
        Ok(if count % 2 == 1 { call(function, vec![operand]) } else { operand })
    }

    fn member(&mut self) -> Result<Expr, ParseError> {
        let primary = self.primary()?;
        self.postfix(primary)
    }

    fn postfix(&mut self, mut operand: Expr) -> Result<Expr, ParseError> {
        let mut height = self.height;
        loop {
            if self.eat(".")? {
                let optional = self.eat("?")?;
                let quoted = matches!(self.token, Token::Quoted(_));
                let field = match self.advance()? {
                    Token::Ident(name) if name != "in" => name,
                    Token::Quoted(name) => name,
                    _ => return self.unexpected(),
                };
                self.height = 0;
                operand = if !quoted && !optional && self.eat("(")? {
                    let args = self.args(")")?;
                    self.method(operand, &field, args)?
                } else {
                    Expr::Select { operand: Box::new(operand), field: field.into(), optional }
                };
            } else if self.eat("[")? {
                let optional = self.eat("?")?;
                let index = Box::new(self.expr()?);
                self.expect("]")?;
                operand = Expr::Index { operand: Box::new(operand), index, optional };
            } else if self.is("{") {
                let Some(name) = qualified(&operand) else { return self.unexpected() };
                self.advance()?;
                operand = Expr::Message { name: name.into(), fields: self.fields()? };
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
            Token::Sign("[") => {
                self.advance()?;
                return self.list();
            }
            Token::Sign("{") => {
                self.advance()?;
                return self.map();
            }
            // A leading dot means the root; there is no container here.
            Token::Sign(".") => {
                self.advance()?;
                return self.identifier();
            }
            _ => return self.unexpected(),
        };
        self.advance()?;
        self.height = 1;
        Ok(Expr::Literal(literal))
    }

    fn identifier(&mut self) -> Result<Expr, ParseError> {
        let Token::Ident(name) = &self.token else { return self.unexpected() };
        let name = name.clone();
        if RESERVED.contains(&name.as_str()) || name == "in" {
            return self.fail(format!("reserved identifier: {name}"));
        }
        self.advance()?;
        self.height = 1;
        if !self.eat("(")? {
            return Ok(Expr::Ident(name.into()));
        }
        let mut args = self.args(")")?;
        self.grown(self.height)?;
        if name == "has" {
            let [Expr::Select { operand, field, optional: false }] = args.as_mut_slice() else {
                return self.fail("invalid argument to has() macro");
            };
            let operand = std::mem::replace(operand, Box::new(Expr::Literal(Value::Null)));
            return Ok(Expr::Has { operand, field: field.clone() });
        }
        Ok(call(&name, args))
    }

    fn list(&mut self) -> Result<Expr, ParseError> {
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
        Ok(Expr::List(items))
    }

    fn map(&mut self) -> Result<Expr, ParseError> {
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
        Ok(Expr::Map(entries))
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
    fn method(&mut self, operand: Expr, name: &str, mut args: Vec<Expr>) -> Result<Expr, ParseError> {
        if let Some(kind) = fold_kind(name, args.len()) {
            return self.fold(kind, operand, args);
        }
        if let (Expr::Ident(namespace), "bind", 3) = (&operand, name, args.len())
            && &**namespace == "cel"
        {
            let name = self.variable(&args[0])?;
            let body = Box::new(args.remove(2));
            return Ok(Expr::Bind { name, value: Box::new(args.remove(1)), body });
        }
        if matches!(name, "optMap" | "optFlatMap") && args.len() == 2 {
            let variable = self.variable(&args[0])?;
            let body = Box::new(args.remove(1));
            return Ok(Expr::OptMap { operand: Box::new(operand), name: variable, body, flat: name == "optFlatMap" });
        }
        if let Some(namespace) = namespace_of(&operand) {
            return Ok(call(&format!("{namespace}.{name}"), args));
        }
        args.insert(0, operand);
        Ok(Expr::Call { function: name.into(), receiver: true, args })
    }

    fn variable(&self, expr: &Expr) -> Result<Name, ParseError> {
        match expr {
            Expr::Ident(name) => Ok(name.clone()),
            _ => self.fail("argument must be a simple name"),
        }
    }

    fn fold(&mut self, kind: FoldKind, range: Expr, mut args: Vec<Expr>) -> Result<Expr, ParseError> {
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
        Ok(Expr::Fold(Box::new(Fold { kind, range, first, second, condition, body })))
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

/// Namespaces of functions that no variable shadows.
fn namespace_of(operand: &Expr) -> Option<&str> {
    const NAMES: [&str; 9] = ["optional", "sets", "math", "strings", "lists", "base64", "format", "ip", "jsonpatch"];
    match operand {
        Expr::Ident(name) => NAMES.into_iter().find(|n| **n == **name),
        _ => None,
    }
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
            assert_eq!(message, "expression recursion limit exceeded", "{}", &text[..40]);
        }
        assert!(parse(&format!("a{}", " || a".repeat(10_000))).is_ok());
        assert!(parse(&format!("1{}", "+1".repeat(240))).is_ok());
    }
}
