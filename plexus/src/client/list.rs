//! Lists, which come page by page.

use super::{Target, output};
use prost::Message;
use tonic::Status;

/// Entries that a page holds at most.
pub(crate) const PAGE: i32 = 1000;

/// Entries of a page, and where the next one begins; empty: there is none.
pub(crate) type Page<T> = (Vec<T>, String);

/// Takes every entry of a list; `ask` is told where a page begins.
pub(crate) async fn each<T>(
    mut ask: impl AsyncFnMut(String) -> Result<Page<T>, Status>,
    mut take: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut from = String::new();
    loop {
        let (entries, next) = ask(from).await?;
        entries.into_iter().try_for_each(&mut take)?;
        if next.is_empty() {
            return Ok(());
        }
        from = next;
    }
}

/// Prints a list: `message` names what a line of JSON is, `heading` and `row` are for people.
pub(crate) async fn print<T: Message>(
    target: &Target,
    message: &str,
    heading: &[&str],
    row: impl Fn(&T) -> Vec<String>,
    ask: impl AsyncFnMut(String) -> Result<Page<T>, Status>,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let take = |entry: T| match target.json {
        true => output::json(message, &entry),
        false => {
            rows.push(row(&entry));
            Ok(())
        }
    };
    each(ask, take).await?;
    if target.json { Ok(()) } else { output::table(heading, &rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page_and_ends_with_what_fails() {
        let ask = async |from: String| match from.as_str() {
            "" => Ok((vec![1, 2], "b".into())),
            "b" => Ok((Vec::new(), "c".into())),
            "c" => Ok((vec![3], String::new())),
            other => Err(Status::invalid_argument(other)),
        };
        let mut all = Vec::new();
        let take = |entry| {
            all.push(entry);
            Ok(())
        };
        each(ask, take).await.unwrap();
        assert_eq!(all, [1, 2, 3]);
        assert!(each(ask, |_| Err(anyhow::anyhow!("no"))).await.is_err());
        let fails = async |_| Err::<Page<u8>, _>(Status::unavailable("gone"));
        assert!(each(fails, |_| Ok(())).await.is_err());
    }
}
