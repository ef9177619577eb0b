/**
 * Files whose upload is not finished, in this browser's IndexedDB: so that an upload goes on after a reload without
 * asking for the file again. Where the browser has no room for them, the page asks.
 */

export interface Kept {
  id: string;
  /** The subject whose file it is: somebody else may sign in in this browser. */
  owner: string;
  file: File;
  room: string | null;
}

let opened: Promise<IDBDatabase> | null = null;

function database(): Promise<IDBDatabase> {
  return (opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open("media-uploads", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("files", { keyPath: "id" });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  }));
}

async function run<T>(mode: IDBTransactionMode, what: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const transaction = (await database()).transaction("files", mode);
  const asked = what(transaction.objectStore("files"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error ?? asked.error);
  });
}

export const keep = (kept: Kept): Promise<unknown> => run("readwrite", (store) => store.put(kept));
export const forget = (id: string): Promise<unknown> => run("readwrite", (store) => store.delete(id));
export const all = (): Promise<Kept[]> => run("readonly", (store) => store.getAll() as IDBRequest<Kept[]>);
