//! The catalog as sessions see it: cached, and dropped from the cache when a commit changes it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use proteus_kernel_api::table::{self, TableInfo};
use proteus_kernel_api::{Change, Commit, Kernel, KernelError, Listener};

use crate::names::PUBLIC;

/// Tables by name.
pub struct Catalog {
    kernel: Arc<dyn Kernel>,
    cache: Arc<Cache>,
}

#[derive(Default)]
struct Cache {
    tables: RwLock<HashMap<String, Arc<TableInfo>>>,
}

impl Listener for Cache {
    fn on_commit(&self, commit: &Commit) {
        let is_ddl = |change: &Change| {
            matches!(
                change,
                Change::Table(table::Change::TableCreated(_) | table::Change::TableDropped(_))
            )
        };
        if commit.changes.iter().any(is_ddl) {
            self.tables.write().clear();
        }
    }

    fn on_gap(&self) {
        self.tables.write().clear();
    }
}

impl Catalog {
    /// The catalog of a kernel.
    pub fn new(kernel: Arc<dyn Kernel>) -> Catalog {
        let cache = Arc::new(Cache::default());
        kernel.follow(cache.clone());
        Catalog { kernel, cache }
    }

    /// The table of this name in `public`.
    ///
    /// # Errors
    /// If the kernel cannot read.
    pub fn table(&self, name: &str) -> Result<Option<Arc<TableInfo>>, KernelError> {
        if let Some(table) = self.cache.tables.read().get(name) {
            return Ok(Some(table.clone()));
        }
        self.kernel.read(|view| {
            let table = table::catalog::table_by_name(view.state, PUBLIC, name)?.map(Arc::new);
            // Within the read, so that no commit can come between it and the cache.
            if let Some(table) = &table {
                self.cache.tables.write().insert(name.to_owned(), table.clone());
            }
            Ok(table)
        })
    }

    /// All tables, by id.
    ///
    /// # Errors
    /// If the kernel cannot read.
    pub fn tables(&self) -> Result<Vec<TableInfo>, KernelError> {
        self.kernel.read(|view| table::catalog::tables(view.state))
    }
}
