//! Calls that make no sense: the same words and exit codes.

use crate::lab::{Lab, words};

#[test]
fn wrong_usage_is_told_in_the_same_words() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a");
    lab.image("qcow2", "q", &[]);
    for line in [
        "",
        "foo",
        "-x",
        "--nope info",
        "info",
        "info a b",
        "info -x a",
        "info --nope a",
        "info --output=xml a",
        "info --output",
        "info -f",
        "info --backing-chain=1 a",
        "info missing",
        "info .",
        "info -f nofmt a",
        "info --image-opts -f qcow2 q",
        "check",
        "check missing",
        "check -r foo q",
        "check -r all -U q",
        "check -f raw a",
        "compare a",
        "compare a b c",
        "compare -f raw -F raw a missing",
        "compare -f foo a a",
        "compare -T bad a a",
        "compare -x a a",
        "convert",
        "convert a",
        "convert -O nofmt a x",
        "convert -t bad -f raw a x",
        "convert -T bad -f raw a x",
        "convert -S bad -f raw a x",
        "convert -S 100 -f raw a x",
        "convert -m 0 -f raw a x",
        "convert -m 17 -f raw a x",
        "convert -m x -f raw a x",
        "convert -r x -f raw a x",
        "convert --target-is-zero -f raw a x",
        "convert --target-image-opts -f raw a driver=raw,file.filename=x",
        "convert --skip-broken-bitmaps -f raw -O qcow2 a x",
        "convert -B q -f raw -O qcow2 a x",
        "convert -f raw missing x",
        "convert -f raw -O raw -n q missing",
        "convert -l snapshot.name=none -f qcow2 q x",
        "convert -C -S 4k -f raw a x",
        "create -f raw",
        "create -f raw x",
        "create -f raw x xx",
        "create -f raw x 1M 2M",
        "create -f nofmt x 1M",
        "create -f qcow2 -u -b q -F qcow2 x",
        "map -s x q",
        "map q a",
        "measure",
        "measure --size 1M q",
        "resize -f raw a",
        "resize -f raw a 1M",
        "resize -f raw a -1M",
        "resize -f raw --shrink a -100M",
        "resize -f raw a 4M --preallocation=bad",
        "resize -f raw a 4M --preallocation=metadata",
        "resize -f raw --shrink a 1M --preallocation=full",
        "resize -f raw missing 1M",
        "snapshot",
        "snapshot -l -c x q",
        "rebase",
        "rebase q",
        "rebase -F raw q",
        "rebase -u q a",
        "rebase -b",
        "rebase -u -b a q",
        "rebase -u -F foo -b a q",
        "rebase -F foo -b a q",
        "rebase -b missing -F raw q",
        "rebase -t bad -u q",
        "rebase -T bad -u q",
        "rebase -u -F raw -b a missing",
        "rebase -u -F raw -b q -f raw a",
        "rebase --image-opts -f qcow2 -u q",
        "commit",
        "commit q a",
        "commit -x",
        "commit q",
        "commit -f raw a",
        "commit -t bad q",
        "commit -r bad q",
        "commit -f foo q",
        "commit missing",
        "dd",
        "dd foo=1",
        "dd bs",
        "dd bs= if=a of=x",
        "dd bs=0 -f raw if=a of=x",
        "dd bs=x -f raw if=a of=x",
        "dd bs=4G -f raw if=a of=x",
        "dd count=x -f raw if=a of=x",
        "dd count=1k -f raw if=a of=x",
        "dd count=-1 -f raw if=a of=x",
        "dd skip=1K -f raw if=a of=x",
        "dd -f raw conv=sync if=a of=x",
        "dd -q -f raw if=a of=x",
        "dd -f foo if=a of=x",
        "dd -f raw -O foo if=a of=x",
        "dd -f raw if=missing of=x",
        "dd -f raw if=. of=x",
        "dd --image-opts -f raw if=a of=x",
    ] {
        let theirs = lab.theirs(&words(line));
        let _ = std::fs::remove_file(lab.path("x"));
        let ours = lab.ours(&words(line));
        assert!(!lab.path("x").exists(), "{line}");
        assert_ne!(theirs.code, Some(0), "{line}");
        assert_eq!(
            (ours.code, &*ours.stderr, ours.text()),
            (theirs.code, &*theirs.stderr, theirs.text()),
            "{line}"
        );
    }
}

#[test]
fn what_cannot_be_read_ends_with_the_same_code() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a");
    lab.image("qcow2", "q", &["-c"]);
    lab.make(&words("create -q -f qcow2 -u -b missing -F raw over 1M"));
    for (line, word) in [
        ("info -f qcow2 a", "QCOW2"),
        ("check -f qcow2 a", "QCOW2"),
        ("info nbd:localhost:1", "Unknown protocol 'nbd'"),
        ("convert -f raw -O raw a nbd:localhost:1", "Unknown protocol 'nbd'"),
        ("convert -O raw over x", "missing"),
        ("info --backing-chain over", "missing"),
        ("map over", "missing"),
        ("map q", "compressed clusters"),
        ("convert -O qcow2 -o nope=1 -f raw a x", "nope"),
        ("convert -O qcow2 -o cluster_size=100 -f raw a x", "cluster"),
        ("convert -l nosuch -f qcow2 q x", "nosuch"),
        ("convert --bitmaps -f qcow2 -O raw q x", "bitmaps"),
        ("create -f vpc -b q -F qcow2 x", "parent"),
        ("create -f qcow2 -b missing -F qcow2 x", "No such file"),
        ("create -f qcow2 -b q x", "without backing format"),
        ("create -f raw -o preallocation=bad x 1M", "preallocation"),
        ("resize -f raw a xx", "'xx'"),
        ("info json:{", "JSON"),
        ("info json:{\"driver\":\"qcow2\"}", "file"),
        ("info --image-opts q", "'q'"),
    ] {
        let theirs = lab.theirs(&words(line));
        let _ = std::fs::remove_file(lab.path("x"));
        let ours = lab.ours(&words(line));
        assert_eq!(ours.code, theirs.code, "{line}: {ours:?} {theirs:?}");
        assert!(ours.stderr.starts_with("qemu-img: "), "{line}: {ours:?}");
        assert!(ours.stderr.contains(word), "{line}: {ours:?}");
    }
    assert!(!lab.path("x").exists());
}

#[test]
fn help_names_every_option_and_what_is_missing() {
    let Some(lab) = Lab::new() else { return };
    let general = lab.ours(&["--help"]).ok();
    for command in [
        "check", "commit", "compare", "convert", "create", "dd", "info", "map", "measure",
        "rebase", "resize",
    ] {
        assert!(general.text().contains(&format!("  {command} - ")), "{command}");
        let own = lab.ours(&[command, "--help"]).ok();
        // all that they list are options of ours
        let theirs = lab.theirs(&[command, "--help"]).ok();
        let options = theirs.text().split_whitespace().filter_map(|word| word.strip_prefix("--"));
        for option in options.map(|option| option.trim_end_matches([',', ']', ')', '|'])) {
            let option = option.split(['=', '|', ']']).next().unwrap();
            let known = ["help", "image-opts", "cache", "format", "options", "output-format"];
            assert!(
                own.text().contains(&format!("--{option}")) || known.contains(&option),
                "{command} --{option}: {}",
                own.text()
            );
        }
    }
    for missing in ["amend", "bench", "bitmap"] {
        lab.refused(&[missing, "x"], 1, &[&format!("has no '{missing}'")]);
    }
    let options = lab.ours(&words("convert -O qcow2 -o help")).ok();
    assert!(options.text().contains("cluster_size"), "{options:?}");
}
