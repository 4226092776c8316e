// Where the page begins: takes the server's key out of the address, opens the store, shows the frame.

import "uplot/dist/uPlot.min.css";
import "./style/colors.css";
import "./style/frame.css";
import "./style/parts.css";
import "./style/views.css";
import "./style/print.css";
import { render } from "preact";
import { Frame } from "./frame.tsx";
import { readAddress } from "./route.ts";
import { openStore } from "./run-store.ts";
import { takeKey } from "./server-calls.ts";

takeKey();
readAddress();
void openStore();
render(<Frame />, document.getElementById("app")!);
