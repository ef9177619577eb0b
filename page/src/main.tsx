import { render } from "preact";
import { start } from "./session.ts";
import { App } from "./views/app.tsx";

await start();
render(<App />, document.getElementById("page")!);
