//! What README.md has its readers type, and what it shows them.

use std::path::Path;

/// The commands of a section's first block for a shell, each whole: with the lines that it is
/// continued on, and with its here-document.
#[track_caller]
pub fn commands(heading: &str) -> Vec<String> {
    let block = block(heading, "sh");
    let mut lines = block.lines();
    let mut commands = Vec::new();
    while let Some(first) = lines.next() {
        let mut command = first.to_owned();
        while command.ends_with('\\') {
            command = command + "\n" + lines.next().expect("a line is continued by another");
        }
        if let Some((_, end)) = first.split_once("<<") {
            let document = lines.by_ref().take_while(|line| *line != end);
            let document: String = document.map(|line| format!("\n{line}")).collect();
            command = format!("{command}{document}\n{end}");
        }
        commands.push(command);
    }
    commands.retain(|command| !command.trim().is_empty());
    commands
}

/// What a section's first block without a language shows.
#[track_caller]
pub fn shown(heading: &str) -> String {
    block(heading, "")
}

/// Whether a line is said as another is shown: word by word, whatever numbers, names of temporary
/// files and shortened values there are.
pub fn has_shape(said: &str, shown: &str) -> bool {
    let shape = |line: &str| -> Vec<String> {
        line.split_whitespace()
            .map(|word| match word {
                "ms" | "s" | "µs" => "TIME".to_owned(),
                word if word.starts_with("/tmp/") => "FILE".to_owned(),
                word if word.contains('…') => "VALUE".to_owned(),
                word if word.contains("://") => word.replace(|c: char| c.is_ascii_digit(), ""),
                word if word.contains(|c: char| c.is_ascii_digit()) && !word.starts_with('X') => {
                    let unit = word.trim_start_matches(|c: char| !c.is_alphabetic());
                    format!("NUMBER{unit}")
                }
                word => word.to_owned(),
            })
            .collect()
    };
    shape(said) == shape(shown)
}

/// The commands of this program that stand in README's sentences and tables, each on one line.
pub fn named_commands() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&file).expect("README.md can be read");
    // Between fences there is code, of which every second piece is none.
    let sentences: String = readme.split("```").step_by(2).collect();
    let code = sentences.split('`').skip(1).step_by(2);
    let code = code.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "));
    code.filter(|code| code.starts_with("countersign ")).collect()
}

/// The first block of a section that is in this language, without its fences.
fn block(heading: &str, language: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&file).expect("README.md can be read");
    let section = readme.split(&format!("\n## {heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("README.md has no section {heading:?}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    // Text and blocks take turns.
    let mut blocks = section.split("```").skip(1).step_by(2);
    let block = blocks.find_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    block.unwrap_or_else(|| panic!("{heading:?} has no block of {language:?}")).to_owned()
}
