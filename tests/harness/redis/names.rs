//! The table of keys in docs/redis.md.

/// Patterns, each as its fixed parts in order.
pub(super) struct Names(Vec<Vec<String>>);

impl Names {
    /// Reads the table: `T` is a slot's tag, `<…>` anything.
    pub(super) fn of(page: &str) -> Self {
        let rows = page.lines().filter(|line| line.starts_with("| `plx:") && !line.contains("| channel |"));
        let cells = rows.filter_map(|row| row.split('|').nth(1));
        let names = cells.flat_map(|cell| cell.split('`').filter(|name| name.starts_with("plx:")));
        Self(names.map(parts).collect())
    }

    /// Tells whether it has this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|parts| fits(key, parts))
    }
}

fn parts(name: &str) -> Vec<String> {
    let name = name.replace("plx:T:", "plx:{<node>}:");
    let mut parts = name.split('<');
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('>').map_or("", |(_, fixed)| fixed).to_owned());
    std::iter::once(first).chain(rest).collect()
}

fn fits(key: &str, parts: &[String]) -> bool {
    let [first, rest @ ..] = parts else { return false };
    let Some(mut key) = key.strip_prefix(first.as_str()) else { return false };
    for (at, part) in rest.iter().enumerate() {
        if at + 1 == rest.len() {
            return key.ends_with(part.as_str());
        }
        let Some((_, after)) = key.split_once(part.as_str()) else { return false };
        key = after;
    }
    key.is_empty()
}
