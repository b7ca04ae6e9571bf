//! A Rust file as tidy sees it: its lines, and the same lines with strings and comments blanked.
//!
//! A small lexer, no parser: it knows comments (nested too), strings, raw strings, characters and
//! lifetimes, which is all it takes not to find rules broken inside a text. Promises: the blanked
//! text has the same lines and columns as the file.

/// A file's lines, twice.
pub(super) struct Source<'a> {
    /// As written.
    pub(super) lines: Vec<&'a str>,
    /// Code only: every character of a comment or inside a string is a space.
    pub(super) code: Vec<String>,
}

impl<'a> Source<'a> {
    /// Reads `text`.
    pub(super) fn new(text: &'a str) -> Source<'a> {
        let blanked = blank(text);
        Source {
            lines: text.lines().collect(),
            code: blanked.lines().map(str::to_string).collect(),
        }
    }

    /// Lines `(first, last)`, from 0, of every `#[cfg(test)] mod … { … }`.
    pub(super) fn test_modules(&self) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for (number, line) in self.code.iter().enumerate() {
            if line.trim() != "#[cfg(test)]" {
                continue;
            }
            let module = (number + 1..self.code.len())
                .find(|next| !self.code[*next].trim_start().starts_with("#["));
            if let Some(module) = module
                && self.code[module].trim_start().starts_with("mod ")
                && self.code[module].trim_end().ends_with('{')
            {
                found.push((number, self.end_of_block(module)));
            }
        }
        found
    }

    /// Lines `(first, last)`, from 0, of every function with a body.
    pub(super) fn functions(&self) -> Vec<(usize, usize)> {
        let starts = (0..self.code.len()).filter(|number| begins_function(&self.code[*number]));
        starts
            .filter_map(|start| Some((start, self.end_of_function(start)?)))
            .collect()
    }

    /// Last line of the function that begins at `start`; `None` for one without a body.
    fn end_of_function(&self, start: usize) -> Option<usize> {
        let indent = indent_of(&self.code[start]);
        for number in start..self.code.len() {
            let line = self.code[number].trim_end();
            if number > start && indent_of(line) > indent {
                continue;
            }
            if line.ends_with(';') {
                return None;
            }
            if line.ends_with('{') {
                return Some(self.end_of_block(number));
            }
            if line.ends_with('}') {
                return Some(number);
            }
        }
        None
    }

    /// Line of the brace that closes the block opened at the end of line `start`.
    fn end_of_block(&self, start: usize) -> usize {
        let indent = indent_of(&self.code[start]);
        let closes = |line: &String| indent_of(line) == indent && line[indent..].starts_with('}');
        let rest = self.code.iter().enumerate().skip(start + 1);
        rest.clone()
            .find(|(_, line)| !line.trim().is_empty() && closes(line))
            .map_or(self.code.len() - 1, |(number, _)| number)
    }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn begins_function(line: &str) -> bool {
    let mut words = line.split_whitespace().filter(|word| {
        !word.starts_with("pub")
            && !word.starts_with('"')
            && !word.ends_with("\")")
            && !["const", "async", "unsafe", "extern", "crate)", "super)"].contains(word)
            && !word.starts_with("in")
    });
    words.next() == Some("fn")
}

/// What the lexer is inside of.
#[derive(Clone, Copy)]
enum Inside {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
    Character,
}

/// `text` with comments and the inside of strings turned into spaces.
fn blank(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut inside = Inside::Code;
    let mut at = 0;
    while at < characters.len() {
        let (next, taken) = step(inside, &characters, at);
        let keep = matches!((inside, next), (Inside::Code, Inside::Code));
        for character in &characters[at..at + taken] {
            out.push(if *character == '\n' || keep {
                *character
            } else {
                ' '
            });
        }
        inside = next;
        at += taken;
    }
    out
}

/// One token: what we are inside of after it, and how many characters it took.
fn step(inside: Inside, characters: &[char], at: usize) -> (Inside, usize) {
    let now = characters[at];
    let next = characters.get(at + 1).copied().unwrap_or('\n');
    match inside {
        Inside::Code => step_code(characters, at),
        Inside::LineComment if now == '\n' => (Inside::Code, 1),
        Inside::LineComment => (inside, 1),
        Inside::BlockComment(1) if (now, next) == ('*', '/') => (Inside::Code, 2),
        Inside::BlockComment(depth) if (now, next) == ('*', '/') => {
            (Inside::BlockComment(depth - 1), 2)
        }
        Inside::BlockComment(depth) if (now, next) == ('/', '*') => {
            (Inside::BlockComment(depth + 1), 2)
        }
        Inside::BlockComment(_) => (inside, 1),
        Inside::Text | Inside::Character if now == '\\' => (inside, 2.min(characters.len() - at)),
        Inside::Text if now == '"' => (Inside::Code, 1),
        Inside::Character if now == '\'' => (Inside::Code, 1),
        Inside::Text | Inside::Character => (inside, 1),
        Inside::RawText(hashes) => {
            let end = &characters[at + 1..];
            let closed = now == '"' && end.iter().take_while(|c| **c == '#').count() >= hashes;
            if closed {
                (Inside::Code, 1 + hashes)
            } else {
                (inside, 1)
            }
        }
    }
}

fn step_code(characters: &[char], at: usize) -> (Inside, usize) {
    let now = characters[at];
    let next = characters.get(at + 1).copied().unwrap_or('\n');
    let before = if at == 0 { ' ' } else { characters[at - 1] };
    match (now, next) {
        ('/', '/') => (Inside::LineComment, 2),
        ('/', '*') => (Inside::BlockComment(1), 2),
        ('"', _) => (Inside::Text, 1),
        ('r', '"' | '#') if !before.is_alphanumeric() && before != '_' || before == 'b' => {
            let hashes = characters[at + 1..]
                .iter()
                .take_while(|c| **c == '#')
                .count();
            if characters.get(at + 1 + hashes) == Some(&'"') {
                (Inside::RawText(hashes), 2 + hashes)
            } else {
                (Inside::Code, 1)
            }
        }
        // A character, not a lifetime: 'x' or an escape.
        ('\'', '\\') => (Inside::Character, 1),
        ('\'', _) if characters.get(at + 2) == Some(&'\'') => (Inside::Character, 1),
        _ => (Inside::Code, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blank() {
        let text = "a(\"todo!()\"); // todo!()\n/* x /* y */ z */ b('\"', 'c', r#\"\"}\"#);\n";
        let code = blank(text);
        assert!(!code.contains("todo"));
        assert!(!code.contains('}') && !code.contains('z'));
        assert!(code.contains("b("));
        assert_eq!(code.chars().count(), text.chars().count());
    }

    #[test]
    fn lifetimes_are_not_characters() {
        let code = blank("fn f<'a>(x: &'a str) -> &'static str { x }");
        assert!(code.contains("static str { x }"));
    }

    #[test]
    fn functions_and_their_lengths_are_found() {
        let text = "\
impl X {
    pub(crate) const fn one(&self) -> u32 {
        1
    }

    fn two(
        &self,
    ) -> u32
    where
        Self: Sized,
    {
        let text = \"\n}\n\";
        2
    }
    fn none(&self);
    unsafe extern \"C\" fn three() {}
}
";
        let source = Source::new(text);
        assert_eq!(source.functions(), [(1, 3), (5, 15), (17, 17)]);
    }

    #[test]
    fn test_modules_are_found() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        assert_eq!(Source::new(text).test_modules(), [(1, 4)]);
    }
}
