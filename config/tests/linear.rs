//! The work and the memory that a text costs grow with its size and no faster, whatever it says.
//!
//! What is counted is every byte that is asked of the allocator: unlike a clock it counts the same on
//! every machine. Each text is loaded in two sizes, the second four times the first.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one adds and passes on"
)]
#![allow(clippy::unwrap_used, reason = "a test panics")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use conncheck_config::{Loader, Trust};

/// Counts for each thread, since tests run side by side.
struct Counting;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // A thread that ends has nothing left to count for.
    let _ = BYTES.try_with(|counted| counted.set(counted.get() + bytes));
}

// SAFETY: every call is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many bytes loading `text` asks for in all, given back or not.
fn cost(text: &str) -> usize {
    let before = BYTES.get();
    let mut loader = Loader::default();
    loader.add("t.yaml", text, Trust::Local);
    let loaded = loader.finish();
    for connection in loaded.connections {
        if let Ok(connection) = connection.of_type("http") {
            let _ = connection.resolve_partly("http", &[]);
        }
    }
    BYTES.get() - before
}

/// What a copy of the nodes that aliases may stand for costs, whatever the size of the text.
const ALIASES: usize = 150 << 20;

#[track_caller]
fn check(name: &str, text: impl Fn(usize) -> String) {
    let (small, large) = (text(4_000), text(16_000));
    let growth = large.len() as f64 / small.len() as f64;
    let (small_cost, large_cost) = (cost(&small), cost(&large));
    let allowed = small_cost as f64 * growth * 1.5;
    assert!(
        large_cost as f64 <= allowed.max((4 << 20) as f64),
        "{name}: {} bytes cost {small_cost}, {} bytes {large_cost}",
        small.len(),
        large.len(),
    );
    // JSON objects on lines of their own have a parser each.
    let most = ALIASES + 6_000 * large.len();
    assert!(
        large_cost <= most,
        "{name}: {} bytes cost {large_cost}",
        large.len()
    );
}

const SPEC: &str = "kind: Connection\nmetadata: {name: a}\nspec:\n  type: http\n";

#[test]
fn what_nests() {
    for (open, close) in [
        ("[", ""),
        ("[", "]"),
        ("{a: ", "}"),
        ("{", "}"),
        ("[{a: ", "}]"),
        ("- ", ""),
        ("? ", ""),
        ("!x [", "]"),
        ("&a [", "]"),
        ("[]", ""),
        ("}", ""),
    ] {
        check(open, |n| format!("{}{}", open.repeat(n), close.repeat(n)));
        check(open, |n| {
            format!("{SPEC}  properties: {}{}", open.repeat(n), close.repeat(n))
        });
    }
}

#[test]
fn flow_collections_of_a_legal_depth() {
    check("deep flow maps", |n| {
        let deep = format!("{}1{}", "{a: ".repeat(50), "}".repeat(50));
        format!(
            "{SPEC}  properties: [{}]",
            format!("{deep},").repeat(n / 50)
        )
    });
    check("a wide list", |n| {
        format!("{SPEC}  properties: {{a: [{}]}}", "1,".repeat(n))
    });
    check("a wide map", |n| {
        let entries: String = (0..n).map(|i| format!("k{i}: {i}, ")).collect();
        format!("{SPEC}  properties: {{{entries}}}")
    });
    check("JSON in a text", |n| {
        let items = r#"{"name": "a", "value": "$(name)"},"#.repeat(n / 10);
        format!("{SPEC}  properties: {{headers: '[{items}]'}}")
    });
    check("deep JSON in a text", |n| {
        let deep = "[".repeat(40) + &"]".repeat(40);
        let items = format!("{deep},").repeat(n / 50);
        format!("{SPEC}  properties: {{headers: '[{items}]'}}")
    });
}

#[test]
fn huge_scalars() {
    for (name, open, piece, close) in [
        ("plain", "", "x", ""),
        ("plain of words", "", "x ", ""),
        ("double quotes", "\"", "x", "\""),
        ("escapes", "\"", "\\n", "\""),
        ("single quotes", "'", "''", "'"),
        ("a literal block", "|\n    ", "x\n    ", "\n"),
        ("a folded block", ">\n    ", "x\n    ", "\n"),
        ("an unclosed quote", "\"", "x ", ""),
        ("lines in quotes", "\"", "x\n    ", "\""),
        ("a comment", "x #", "x", ""),
        ("templates", "", "$(name)", ""),
        ("unclosed templates", "", "$(", ""),
        ("unknown templates", "", "$(x)", ""),
        ("Helm's brackets", "'", "{{", "'"),
        ("brackets and blanks", "'", "{{  ", "'"),
        ("dollars", "", "$", ""),
        ("escaped dollars", "", "$$(", ""),
        ("references", "", "secret://", ""),
        ("a reference", "secret://", "a", ""),
        ("colons", "", "a:", ""),
        ("at signs", "http://", "@", ""),
        ("commas", "http://h", ",http://h", ""),
        ("percents", "http://", "%41", ""),
        ("question marks", "http://h", "?a=b&", ""),
        ("keywords", "host=h ", "a=b ", ""),
        ("quotes in a DSN", "host=h a=", "'' ", ""),
    ] {
        for field in [
            "url",
            "password",
            "properties: {query",
            "description",
            "type",
            "xyzzy",
        ] {
            let end = if field.contains('{') { "}" } else { "" };
            check(&format!("{name} as {field}"), |n| {
                let text = piece.repeat(n);
                format!("{SPEC}  {field}: {open}{text}{close}{end}\n")
                    .replace("type: http\n  type", "type")
            });
        }
    }
    check("a key", |n| format!("{SPEC}  {}: 1\n", "k".repeat(n)));
    check("a name", |n| {
        format!("kind: Connection\nmetadata: {{name: {}}}\n", "n".repeat(n))
    });
    check("a kind", |n| format!("kind: {}\n", "Connection".repeat(n)));
}

#[test]
fn anchors_aliases_and_merges() {
    check("many anchors", |n| {
        (0..n).map(|i| format!("k{i}: &a{i} x\n")).collect()
    });
    check("one anchor again and again", |n| {
        (0..n).map(|i| format!("k{i}: &a x\n")).collect()
    });
    check("many aliases", |n| {
        format!("a: &a x\nb: [{}]\n", "*a,".repeat(n))
    });
    check("aliases of nothing", |n| {
        format!("b: [{}]\n", "*a,".repeat(n))
    });
    check("aliases of a list", |n| {
        format!("a: &a [{}]\nb: [{}]\n", "1,".repeat(n), "*a,".repeat(n))
    });
    check("a chain of aliases", |n| {
        let links = (1..n).map(|i| format!("a{i}: &a{i} [*a{}]\n", i - 1));
        format!("a0: &a0 x\n{}", links.collect::<String>())
    });
    check("a bomb in each document", |n| {
        let mut bomb = "a0: &a0 [x, x, x, x]\n".to_owned();
        for level in 1..8 {
            let aliases = format!("*a{}, ", level - 1).repeat(4);
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        format!("{bomb}---\n").repeat(n / 100)
    });
    check("merges of one mapping", |n| {
        let merges = (0..n).map(|i| format!("m{i}: {{<<: *b, own: 1}}\n"));
        format!("b: &b {{a: 1, b: 2, c: 3}}\n{}", merges.collect::<String>())
    });
    check("a chain of merges", |n| {
        let links = (1..n / 10).map(|i| format!("m{i}: &m{i} {{<<: *m{}, k{i}: 1}}\n", i - 1));
        format!("m0: &m0 {{a: 1}}\n{}", links.collect::<String>())
    });
    check("one merge of many", |n| {
        format!("b: &b {{a: 1}}\nm: {{<<: [{}]}}\n", "*b,".repeat(n))
    });
    check("many merges in one mapping", |n| {
        format!("b: &b {{a: 1}}\nm:\n{}", "  <<: *b\n".repeat(n))
    });
}

#[test]
fn many_documents_and_many_mistakes() {
    for line in [
        "---\n",
        "...\n",
        "--- x\n",
        "{}\n",
        "{\"kind\":\"Connection\"}\n",
        "@\n---\n",
        "\"\n---\n",
        "]\n",
        "\t- x\n",
        "%TAG ! x\n",
        "a: 1\n",
        "kind: x\n---\n",
        "kind: Connection\n---\n",
        "kind: Connection\nmetadata: {name: a}\nspec: {url: 'http://h'}\n---\n",
        "{{ .Values.x }}\n",
        "#\n",
        "\r",
        "\u{feff}",
        "? a\n",
        "- - - x\n",
        "!x\n",
        "&a\n",
        "*a\n",
    ] {
        check(line, |n| line.repeat(n));
    }
    check("unknown fields", |n| {
        let fields: String = (0..n).map(|i| format!("  usernam{i}: x\n")).collect();
        format!("{SPEC}{fields}")
    });
    check("unknown properties in templates", |n| {
        let fields: String = (0..n)
            .map(|i| format!("    p{i}: $(properties.q{i})\n"))
            .collect();
        format!("{SPEC}  properties:\n{fields}")
    });
    check("properties in one another", |n| {
        let fields: String = (1..n)
            .map(|i| format!("    p{i}: $(properties.p{})\n", i - 1))
            .collect();
        format!("{SPEC}  properties:\n    p0: x\n{fields}")
    });
    check("labels", |n| {
        let labels: String = (0..n).map(|i| format!("    l{i}: {i}\n")).collect();
        format!("{SPEC}  url: http://h\n  labels:\n{labels}")
    });
    check("items of a list", |n| {
        format!("kind: List\nitems:\n{}", "- kind: Connection\n".repeat(n))
    });
    check("secrets", |n| {
        let values: String = (0..n).map(|i| format!("  k{i}: aGk=\n")).collect();
        format!("kind: Secret\nmetadata: {{name: a}}\ndata:\n{values}")
    });
    check("the same identity", |n| {
        "kind: Connection\nmetadata: {name: a}\nspec: {url: 'http://h'}\n---\n".repeat(n / 8)
    });
}
