#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| conncheck_fuzz::url("prometheus", text));
