//! Colour and width, by the habits of terminals: `NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb`, and
//! `--color` before all of them.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Color, Style};
use diskimage::Severity;

/// The width where there is no terminal to ask.
const WIDTH: usize = 80;
/// Longer lines are no easier to read.
const WIDEST: usize = 100;

/// When there is colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Colour {
    // no text, since each value would get a line of the help
    #[default]
    Auto,
    Always,
    Never,
}

impl From<Colour> for ColorChoice {
    fn from(colour: Colour) -> Self {
        match colour {
            Colour::Auto if is_dumb() => Self::Never,
            Colour::Auto => Self::Auto,
            Colour::Always => Self::Always,
            Colour::Never => Self::Never,
        }
    }
}

impl From<Colour> for clap::ColorChoice {
    fn from(colour: Colour) -> Self {
        match colour {
            Colour::Auto if is_dumb() => Self::Never,
            Colour::Auto => Self::Auto,
            Colour::Always => Self::Always,
            Colour::Never => Self::Never,
        }
    }
}

impl Colour {
    /// What the arguments ask for, told before they are read: what is wrong with them has colours too.
    pub(crate) fn asked<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut asked = Self::Auto;
        let mut follows = false;
        for arg in args {
            let Some(text) = arg.as_ref().to_str().filter(|text| *text != "--") else { break };
            let value = text.strip_prefix("--color=").or(follows.then_some(text));
            follows = text == "--color";
            asked = match value {
                Some("always") => Self::Always,
                Some("never") => Self::Never,
                Some("auto") => Self::Auto,
                _ => asked,
            };
        }
        asked
    }

    /// From now on this holds, and it is known which of the streams have colour.
    pub(crate) fn settle(self) {
        ColorChoice::from(self).write_global();
        let _ = (on_stdout(), on_stderr());
    }
}

/// Whether the terminal says that it knows no colours. The library asks for that too, but not where a
/// continuous integration may show them.
fn is_dumb() -> bool {
    let is_forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    std::env::var_os("TERM").is_some_and(|name| name == "dumb") && !is_forced
}

fn on_stdout() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| AutoStream::choice(&io::stdout()) != ColorChoice::Never)
}

fn on_stderr() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| AutoStream::choice(&io::stderr()) != ColorChoice::Never)
}

/// How many characters fit on a line of standard output.
pub(crate) fn width() -> usize {
    let size = Some(io::stdout())
        .filter(IsTerminal::is_terminal)
        .and_then(terminal_size::terminal_size_of);
    size.map_or(WIDTH, |(width, _)| width.0.into())
}

/// The same of standard error.
pub(crate) fn stderr_width() -> usize {
    terminal_size::terminal_size_of(io::stderr()).map_or(WIDTH, |(width, _)| width.0.into())
}

/// The same for sentences.
pub(crate) fn text_width() -> usize {
    width().clamp(20, WIDEST)
}

/// Something in a style, where standard output has any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Painted<T> {
    what: T,
    style: Style,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.style)?;
        self.what.fmt(f)?;
        write!(f, "{:#}", self.style)
    }
}

/// In this style.
pub(crate) fn painted<T: Display>(what: T, style: Style) -> Painted<T> {
    Painted { what, style: if on_stdout() { style } else { Style::new() } }
}

/// In this colour.
pub(crate) fn coloured<T: Display>(what: T, colour: AnsiColor) -> Painted<T> {
    painted(what, Style::new().fg_color(Some(Color::Ansi(colour))))
}

/// What stands before something, or above it.
pub(crate) fn heading<T: Display>(what: T) -> Painted<T> {
    painted(what, Style::new().bold())
}

/// What stands before a value, in a column.
pub(crate) fn key(name: &str) -> Painted<String> {
    heading(format!("{:<16}", format!("{name}:")))
}

/// A word that says that all is well.
pub(crate) fn good<T: Display>(what: T) -> Painted<T> {
    painted(what, bold(AnsiColor::Green))
}

/// A word that says that it is not.
pub(crate) fn bad<T: Display>(what: T) -> Painted<T> {
    painted(what, bold(AnsiColor::Red))
}

/// How bad something is.
pub(crate) fn severity(severity: Severity) -> Painted<Severity> {
    let colour = match severity {
        Severity::Info => AnsiColor::Cyan,
        Severity::Warning => AnsiColor::Yellow,
        Severity::Error | Severity::Danger => AnsiColor::Red,
    };
    painted(severity, bold(colour))
}

/// What begins a line on standard error.
pub(crate) fn complaint(what: &str) -> Painted<&str> {
    let style = if on_stderr() { bold(AnsiColor::Red) } else { Style::new() };
    Painted { what, style }
}

fn bold(colour: AnsiColor) -> Style {
    Style::new().bold().fg_color(Some(Color::Ansi(colour)))
}

/// `text` in lines of at most `width` characters where its words allow that, each behind `indent`.
pub(crate) fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let room = width.saturating_sub(indent.chars().count()).max(1);
    let (mut out, mut used) = (String::from(indent), 0);
    for word in text.split_ascii_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            out.push('\n');
            out.push_str(indent);
            used = 0;
        }
        if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_between_words() {
        assert_eq!(wrapped("one two three", 9, "  "), "  one two\n  three");
        assert_eq!(wrapped("averylongword b", 5, ""), "averylongword\nb");
        assert_eq!(wrapped("  a\n b ", 80, ""), "a b");
        assert_eq!(wrapped("", 80, "  "), "  ");
    }

    #[test]
    fn colour_is_asked_for_before_the_arguments_are_read() {
        for (args, asked) in [
            (&["info", "x"][..], Colour::Auto),
            (&["info", "--color=never", "x"], Colour::Never),
            (&["--color", "always", "info"], Colour::Always),
            (&["--color=always", "--color=never"], Colour::Never),
            (&["info", "--", "--color=never"], Colour::Auto),
            (&["--color=mauve"], Colour::Auto),
        ] {
            assert_eq!(Colour::asked(args), asked, "{args:?}");
        }
    }
}
