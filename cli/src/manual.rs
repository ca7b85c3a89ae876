//! `diskimage completions` and `diskimage man`: what shells and man(1) read, put together from the
//! command line as it is.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use diskimage::target::FileTarget;
use diskimage::{Error, Result, Target};

use crate::args::Args;
use crate::deferred::describe_at_once;
use crate::report;
use crate::suggest::{did_you_mean, named};

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The command that the page is about, as convert; without it, the program as a whole
    #[arg(conflicts_with = "output_dir", value_parser = named(|name| Ok(name.to_owned()), commands),
        hide_possible_values = true)]
    pub(crate) command: Option<String>,
    /// Writes all pages into this folder, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
}

/// The names of all commands.
fn commands() -> Vec<&'static str> {
    // it is asked for once, by a process that ends then
    let root: &'static clap::Command = Box::leak(Box::new(Args::command()));
    root.get_subcommands().map(clap::Command::get_name).collect()
}

/// Prints what a shell is to read.
pub(crate) fn completions(args: &CompletionsArgs) -> u8 {
    describe_at_once();
    let mut script = Vec::new();
    let mut root = Args::command();
    clap_complete::generate(args.shell, &mut root, "diskimage", &mut script);
    if args.shell == Shell::Fish {
        script.extend(operands(&root).into_bytes());
    }
    report::printed(io::stdout().lock().write_all(&script))
}

/// What fish is told of operands, of which the script for it knows nothing: their values.
fn operands(root: &clap::Command) -> String {
    let mut script = String::new();
    for command in root.get_subcommands() {
        for operand in command.get_positionals() {
            let values = operand.get_possible_values();
            let values: Vec<_> = values.iter().map(|value| value.get_name()).collect();
            if !values.is_empty() {
                script.push_str(&format!(
                    "complete -c diskimage -n \"__fish_diskimage_using_subcommand {}\" -f -a \"{}\"\n",
                    command.get_name(),
                    values.join(" ")
                ));
            }
        }
    }
    script
}

/// Prints or writes manual pages.
pub(crate) fn man(args: &ManArgs) -> u8 {
    let root = root();
    if let Some(folder) = &args.output_dir {
        return match write_all(&root, folder) {
            Ok(()) => report::OK,
            Err(error) => report::fail(&error, folder),
        };
    }
    let command = match &args.command {
        None => &root,
        Some(name) => match root.find_subcommand(name) {
            Some(command) => command,
            None => {
                let near = did_you_mean(name, root.get_subcommands().map(clap::Command::get_name));
                let name = diskimage::text::printable_str(name);
                report::message(&format!("there is no command '{name}'{near}"));
                return report::USAGE;
            }
        },
    };
    match page(command) {
        Ok(page) => report::printed(io::stdout().lock().write_all(&page)),
        Err(error) => report::printed(Err(error)),
    }
}

/// The command line with all that its parts have in common.
fn root() -> clap::Command {
    describe_at_once();
    let mut root = Args::command().disable_help_subcommand(true);
    root.build();
    root
}

fn write_all(root: &clap::Command, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("make the folder", error))?;
    for command in std::iter::once(root).chain(root.get_subcommands()) {
        let path = folder.join(format!("{}.1", name_of(command)));
        let page = page(command).map_err(|error| Error::io("write the page", error))?;
        let target = FileTarget::create(&path, page.len() as u64)?.durable(false);
        target.write_at(&page, 0)?;
        Box::new(target).finish()?;
    }
    Ok(())
}

/// `diskimage-convert`.
fn name_of(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// A page, with what stands behind the options in sections of their own.
fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let man = Man::new(command.clone()).manual("diskimage").source(version());
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let notes = command.get_after_long_help().or_else(|| command.get_after_help());
    if let Some(notes) = notes {
        notes_of(&notes.to_string(), &mut out)?;
    }
    if command.get_name() != "diskimage" {
        writeln!(out, ".SH \"SEE ALSO\"\n\\fBdiskimage\\fR(1)")?;
    }
    Ok(out)
}

fn version() -> String {
    format!("diskimage {}", env!("CARGO_PKG_VERSION"))
}

/// Text behind the options: paragraphs are filled, lines behind four spaces stay as they are.
fn notes_of(notes: &str, out: &mut impl Write) -> io::Result<()> {
    // groff(7): a line that begins with a dot or an apostrophe is a request
    let line = |text: &str| {
        let text = text.replace('\\', "\\e").replace('-', "\\-");
        if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
    };
    let (mut kept, mut heading) = (false, "");
    for text in notes.lines() {
        let next = match text {
            "Examples:" => "EXAMPLES",
            _ if text.starts_with("Exit codes:") => "EXIT STATUS",
            _ if heading.is_empty() => "NOTES",
            _ => heading,
        };
        if next != heading {
            if std::mem::take(&mut kept) {
                writeln!(out, ".fi\n.RE")?;
            }
            heading = next;
            writeln!(out, ".SH \"{heading}\"")?;
            if text == "Examples:" {
                continue;
            }
        }
        let keeps = text.starts_with("    ");
        if keeps != kept {
            kept = keeps;
            writeln!(out, "{}", if keeps { ".RS 4\n.nf" } else { ".fi\n.RE" })?;
        }
        match text.trim() {
            "" => writeln!(out, ".PP")?,
            // the question that an example answers
            told if text.starts_with("  ") && !keeps => writeln!(out, ".PP\n{}", line(told))?,
            told => writeln!(out, "{}", line(told))?,
        }
    }
    if kept { writeln!(out, ".fi\n.RE") } else { Ok(()) }
}
