"""What the compiler reads of one library."""

def _code_of_impl(ctx):
    headers = ctx.attr.library[CcInfo].compilation_context.headers.to_list()

    # Those of other repositories are installed.
    ours = [file for file in headers if file.owner.workspace_name == ctx.label.workspace_name]
    files = depset(ours, transitive = [ctx.attr.library[OutputGroupInfo].generated])
    return [DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files))]

code_of = rule(
    implementation = _code_of_impl,
    doc = "The sources of a generated library, and all headers of this repository that they need.",
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
