//! Composing WGSL: a prelude of constants written by Rust, fragments from `shaders/lib/`, then the op's file. Register tiles
//! are written as loops that are unrolled here:
//!
//! ```text
//! //: for i in ROWS
//!     var y$i = 0.0;
//! //: end
//! ```
//!
//! repeats the lines between with `$i` replaced by 0, 1, ... ROWS - 1; ROWS is a number or a constant of the prelude. (Arrays
//! in ordinary loops stay in memory where the driver does not unroll them, which made products ten times slower on
//! SwiftShader.)

use std::fmt::Write;

/// One WGSL file with the fragments it builds on. Made by [`shader!`](crate::shader).
#[derive(Debug)]
pub struct Shader {
    pub name: &'static str,
    pub fragments: &'static [&'static str],
    pub source: &'static str,
}

/// `shader!("rms_norm", ["reduce"])`: the file `shaders/rms_norm.wgsl` with the fragment `shaders/lib/reduce.wgsl`.
#[macro_export]
macro_rules! shader {
    ($name:literal $(, [$($fragment:literal),* $(,)?])?) => {{
        static SHADER: $crate::gpu::Shader = $crate::gpu::Shader {
            name: $name,
            fragments: &[$($(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/lib/", $fragment, ".wgsl"))),*)?],
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")),
        };
        &SHADER
    }};
}

/// `fragment!("reduce")`: the text of `shaders/lib/reduce.wgsl`, for shaders whose fragments are chosen at run time.
#[macro_export]
macro_rules! fragment {
    ($fragment:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/lib/", $fragment, ".wgsl"))
    };
}

/// The lines that specialise a shader: `enable`, `const` and `alias` declarations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prelude {
    enables: String,
    lines: String,
}

impl Prelude {
    /// `enable extension;`
    pub fn enable(mut self, extension: &str) -> Self {
        let _ = writeln!(self.enables, "enable {extension};");
        self
    }

    /// `const NAME: u32 = value;`
    pub fn u32(mut self, name: &str, value: u32) -> Self {
        let _ = writeln!(self.lines, "const {name}: u32 = {value}u;");
        self
    }

    /// `const NAME: f32 = value;`
    pub fn f32(mut self, name: &str, value: f32) -> Self {
        let _ = writeln!(self.lines, "const {name}: f32 = {value:?}f;");
        self
    }

    /// `const NAME: bool = value;`
    pub fn bool(mut self, name: &str, value: bool) -> Self {
        let _ = writeln!(self.lines, "const {name}: bool = {value};");
        self
    }

    /// `alias Name = type;`
    pub fn alias(mut self, name: &str, of: &str) -> Self {
        let _ = writeln!(self.lines, "alias {name} = {of};");
        self
    }

    /// Generated WGSL, or fragments chosen at run time, that stand before the fragments of the shader.
    pub fn text(mut self, wgsl: &str) -> Self {
        self.lines.push_str(wgsl);
        self.lines.push('\n');
        self
    }

    /// The value of a `u32` constant.
    fn constant(&self, name: &str) -> Option<u32> {
        let start = format!("const {name}: u32 = ");
        self.lines.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix("u;")?.parse().ok())
    }
}

impl Shader {
    /// The whole module's text.
    pub fn compose(&self, prelude: &Prelude) -> String {
        let mut text = format!("{}{}", prelude.enables, prelude.lines);
        for fragment in self.fragments.iter().copied().chain([self.source]) {
            text.push_str(fragment);
            text.push('\n');
        }
        if !text.contains(FOR) {
            return text;
        }
        let mut unrolled = String::with_capacity(2 * text.len());
        let lines: Vec<&str> = text.lines().collect();
        unroll(&lines, prelude, &[], &mut unrolled);
        unrolled
    }
}

const FOR: &str = "//: for ";
const END: &str = "//: end";

/// Appends `lines` with their loops unrolled; `counters` are the letters of the loops around them and where these stand.
fn unroll(lines: &[&str], prelude: &Prelude, counters: &[(char, u32)], out: &mut String) {
    let mut at = 0;
    while at < lines.len() {
        let Some(header) = lines[at].trim_start().strip_prefix(FOR) else {
            let mut line = lines[at].to_string();
            for (letter, value) in counters {
                line = line.replace(&format!("${letter}"), &value.to_string());
            }
            out.push_str(&line);
            out.push('\n');
            at += 1;
            continue;
        };
        let (letter, count) = header.split_once(" in ").expect("a loop names its letter and its count");
        let count = count.trim().parse().ok().or_else(|| prelude.constant(count.trim()));
        let count: u32 = count.expect("the count of a loop is a number or a constant of the prelude");
        let mut depth = 0;
        let length = lines[at + 1..].iter().position(|line| {
            let line = line.trim_start();
            depth += i32::from(line.starts_with(FOR)) - i32::from(line.starts_with(END));
            depth < 0
        });
        let end = at + 1 + length.expect("every loop ends");
        for value in 0..count {
            let mut inner = counters.to_vec();
            inner.push((letter.chars().next().expect("a letter"), value));
            unroll(&lines[at + 1..end], prelude, &inner, out);
        }
        at = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_loops_are_unrolled_with_constants_of_the_prelude() {
        let shader = Shader {
            name: "test",
            fragments: &[],
            source: "a\n//: for i in ROWS\n  b$i;\n//: for j in 2\n  c$i_$ju;\n//: end\n//: end\nd",
        };
        let text = shader.compose(&Prelude::default().u32("ROWS", 2));
        assert_eq!(text, "const ROWS: u32 = 2u;\na\n  b0;\n  c0_0u;\n  c0_1u;\n  b1;\n  c1_0u;\n  c1_1u;\nd\n");
    }
}
