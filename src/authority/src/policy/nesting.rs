//! How deep a text of Cedar's nests, found before anything that recurses reads it.
//!
//! Cedar's parser, validator and evaluator go down a level of their stack for each bracket and each
//! operator, and a stack that is used up ends the process. So the text is measured first, by a look
//! at each byte. What is found is never less than the depth of the tree that Cedar builds.

use std::collections::HashMap;

/// The line at which a text, of policies or of a schema, nests deeper than this.
pub(super) fn too_deep(text: &str, limit: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut levels, mut at) = (Levels::default(), 0);
    while at < bytes.len() {
        let (token, length) = token(&bytes[at..]);
        match token {
            Token::Close => levels.close(),
            Token::Deepens => levels.innermost.chain += 1,
            Token::Open => levels.open(),
            Token::Other => {}
            Token::Separator => levels.innermost.separate(),
        }
        if levels.depth() > limit {
            return Some(1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count());
        }
        at += length;
    }
    None
}

/// How often a word stands in a text, outside of quotes and comments.
pub(super) fn count_word(text: &str, word: &[u8]) -> usize {
    let (bytes, mut at, mut count) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        let (_, length) = token(&bytes[at..]);
        count += usize::from(bytes.get(at..at + length) == Some(word));
        at += length;
    }
    count
}

/// How many words a schema has once each name of a type is replaced by what it stands for, as Cedar's
/// validator does it: a type that names another twice doubles it. Names are told apart by their last
/// part alone, and one that stands for itself has no end: never less than Cedar makes of it.
pub(super) fn expanded(schema: &str) -> usize {
    let mut types: HashMap<&str, Vec<&str>> = HashMap::new();
    let (mut outside, mut words) = (Vec::new(), words(schema));
    while let Some(word) = words.next() {
        match (word, words.clone().next()) {
            ("type", Some(name)) if is_of_word(name.as_bytes()[0]) => {
                let body = words.by_ref().skip(1).take_while(|word| *word != ";");
                types.entry(name).or_default().extend(body);
            }
            _ => outside.push(word),
        }
    }
    let mut sizes = HashMap::new();
    let names: Vec<&str> = types.keys().copied().collect();
    let inside = names.into_iter().map(|name| size_of(name, &types, &mut sizes));
    let inside = inside.fold(0, usize::saturating_add);
    outside.into_iter().fold(inside, |sum, word| {
        sum.saturating_add(sizes.get(word).copied().flatten().unwrap_or(1))
    })
}

/// What a name stands for; none while that is being counted.
fn size_of<'a>(
    name: &'a str,
    types: &HashMap<&'a str, Vec<&'a str>>,
    sizes: &mut HashMap<&'a str, Option<usize>>,
) -> usize {
    let Some(body) = types.get(name) else { return 1 };
    if let Some(known) = sizes.get(name) {
        return known.unwrap_or(usize::MAX);
    }
    sizes.insert(name, None);
    let parts = body.iter().map(|word| size_of(word, types, sizes));
    let size = parts.fold(1, usize::saturating_add);
    sizes.insert(name, Some(size));
    size
}

/// The tokens of a text, without comments.
fn words(text: &str) -> impl Iterator<Item = &str> + Clone {
    let mut at = 0;
    let tokens = std::iter::from_fn(move || {
        let rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        let (_, length) = token(rest.as_bytes());
        // A letter that has several bytes is part of no word of Cedar's.
        let length = (length..=rest.len()).find(|end| rest.is_char_boundary(*end))?;
        at += length;
        Some(&rest[..length])
    });
    tokens.filter(|token| !token.trim().is_empty() && !token.starts_with("//"))
}

/// What stands between two brackets.
#[derive(Debug, Default, Clone, Copy)]
struct Level {
    /// Operators of the expression that is not yet over: each may lie below the one before.
    chain: usize,
    /// The deepest bracket in it that is closed again.
    closed: usize,
    /// The deepest expression that is over.
    over: usize,
}

impl Level {
    fn separate(&mut self) {
        *self = Self { over: self.deepest(), ..Self::default() };
    }

    fn deepest(&self) -> usize {
        self.over.max(self.chain + self.closed)
    }
}

/// The brackets that are open.
#[derive(Debug, Default)]
struct Levels {
    outer: Vec<Level>,
    /// Brackets and chains around the innermost bracket.
    above: usize,
    innermost: Level,
}

impl Levels {
    fn open(&mut self) {
        self.above += self.innermost.chain + 1;
        self.outer.push(std::mem::take(&mut self.innermost));
    }

    /// A bracket too many is Cedar's to refuse.
    fn close(&mut self) {
        let Some(outer) = self.outer.pop() else { return };
        let inner = std::mem::replace(&mut self.innermost, outer);
        self.above -= outer.chain + 1;
        self.innermost.closed = outer.closed.max(inner.deepest() + 1);
    }

    fn depth(&self) -> usize {
        self.above + self.innermost.chain + self.innermost.closed
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Close,
    /// An operator, by a sign or by a word.
    Deepens,
    Open,
    Other,
    /// Ends an expression: what comes next lies beside it.
    Separator,
}

/// The first token, and how many bytes it has. At least one byte is there.
fn token(rest: &[u8]) -> (Token, usize) {
    match rest[0] {
        b'(' | b'[' | b'{' => (Token::Open, 1),
        b')' | b']' | b'}' => (Token::Close, 1),
        b',' | b';' => (Token::Separator, 1),
        b'"' => (Token::Other, string(rest)),
        b'/' if rest.starts_with(b"//") => {
            (Token::Other, until(rest, |it| matches!(it, b'\n' | b'\r')))
        }
        sign if rest.len() > 1 && matches!(sign, b'&' | b'|' | b'=') && rest[1] == sign => {
            (Token::Deepens, 2)
        }
        b'.' | b'&' | b'|' | b'=' | b'!' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%' => {
            (Token::Deepens, 1)
        }
        first if is_of_word(first) => {
            let length = until(rest, |byte| !is_of_word(byte));
            let deepens = DEEPENING.contains(&&rest[..length]);
            (if deepens { Token::Deepens } else { Token::Other }, length)
        }
        _ => (Token::Other, 1),
    }
}

/// A text in quotes, to the closing one; a quote after a backslash closes none.
fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    rest.len()
}

fn until(rest: &[u8], ends: impl Fn(u8) -> bool) -> usize {
    rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len())
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Words that take an operand, and those that begin a condition: all conditions of a policy are one
/// conjunction.
const DEEPENING: &[&[u8]] = &[b"has", b"if", b"in", b"is", b"like", b"unless", b"when"];

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(text: &str) -> usize {
        (0..).find(|limit| too_deep(text, *limit).is_none()).unwrap()
    }

    #[test]
    fn brackets_and_operators_of_one_expression_add_up() {
        for (text, expected) in [
            ("", 0),
            ("a", 0),
            ("((a))", 2),
            ("((", 2),
            ("))((a", 2),
            ("(a) (b) ((c))", 2),
            ("a && b && c", 2),
            ("(a) && (b || c)", 3),
            ("((a)) && b && c", 4),
            ("a.b.c", 2),
            ("!!a", 2),
            ("f(a && b, ((c)), d)", 3),
            ("[a, b, c, d, e]", 1),
            ("{x: {y: {}}}", 3),
            ("f(a, (b), c) && d && e", 4),
            ("if a then b else if c then d else e", 2),
            ("a has b; a is c; a like d", 1),
            ("permit() when {a} unless {b};permit() when {c};", 3),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
    }

    #[test]
    fn a_schema_is_measured_with_each_type_in_place_of_its_name() {
        let doubled = |types: usize| {
            let each =
                (1..types).map(|n| format!("type L{n} = {{a: L{m}, b: N::L{m}}};", m = n - 1));
            format!("type L0 = String;\n{}\nentity E = {{x: L1}};", each.collect::<String>())
        };
        assert_eq!(expanded("entity Path, Identity in [Path];"), 9);
        assert!(expanded(&doubled(8)) < 8_000, "{}", expanded(&doubled(8)));
        assert!(expanded(&doubled(16)) > 65_000);
        assert_eq!(expanded(&doubled(200)), usize::MAX);
        assert_eq!(expanded("type A = {b: B}; type B = Set<A>;"), usize::MAX);
        assert!(expanded("// type A = A;\nentity E = {\"type\": \u{1F512}Long};") < 20);
    }

    #[test]
    fn texts_and_comments_do_not_count_and_hide_nothing() {
        for (text, expected) in [
            (r#""((((" == a"#, 1),
            (r#""\"((((" == a"#, 1),
            (r#""\\" (((("#, 4),
            ("// ((((\n(", 1),
            ("// ((((\r(", 1),
            (r#""//" (("#, 2),
            (r#""(((("#, 0),
            ("a / / b", 2),
            ("whenever(inside)", 1),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
    }

    #[test]
    fn the_line_is_told_at_which_it_becomes_too_deep() {
        assert_eq!(too_deep("(\n(\n(\n(", 2), Some(3));
        assert_eq!(too_deep("(\n(\n(\n(", 4), None);
    }
}
