//! Composing WGSL: a prelude of constants written by Rust, fragments from `shaders/lib/`, then the op's file.

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

    /// Generated WGSL that stands before the fragments.
    pub fn text(mut self, wgsl: &str) -> Self {
        self.lines.push_str(wgsl);
        self.lines.push('\n');
        self
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
        text
    }
}
